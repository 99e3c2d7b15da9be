//! The comparison with other servers: every contender gets the same load on the same processor, in
//! interleaved rounds, and what is compared is the processor time that an operation costs it.
//!
//! ```text
//! workload ─► pairs ─► measurement ─► contender, generator, cores ─► row, chart ─► results
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod certificate;
mod chart;
mod contender;
mod cores;
mod generator;
mod measurement;
mod pairs;
mod place;
mod results;
mod row;
mod template;
mod workload;

pub(crate) use cores::memory_of;
use generator::Timing;
use pairs::{CellOutcome, Plan, run_cell};
use place::Place;
use results::Origin;
use workload::{Measure, Workload, workloads};

#[derive(Args)]
pub(crate) struct PeersArguments {
    /// Names of workloads, `all`, or `list` to see them
    #[arg(required = true)]
    workloads: Vec<String>,
    /// Interleaved rounds of every load
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rounds at each fixed rate, where a side was not saturated
    #[arg(long, default_value_t = 3)]
    rate_rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Shows only that everything works: one short round of each workload's first load
    #[arg(long)]
    quick: bool,
    /// Exit with an error if a goal is missed
    #[arg(long)]
    gate: bool,
    /// Folder of the servers' configurations
    #[arg(long, default_value = "bench/peers")]
    templates: PathBuf,
    /// Folder for filled configurations and messages of the servers
    #[arg(long, default_value = "target/peers")]
    scratch: PathBuf,
    /// Put the sections into this file, and the pictures into the folder `results` beside it
    #[arg(long)]
    results: Option<PathBuf>,
    /// Processor of the measured server
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Processor of load and backend
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

/// Opening more takes longer than all the rest.
const QUICK_CONNECTIONS: usize = 500;

/// Runs what `arguments` name and says every line of it by `tell`.
pub(crate) fn run(arguments: &PeersArguments, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let all = workloads();
    if arguments.workloads.iter().any(|name| name == "list") {
        for workload in &all {
            tell(&format!("{:12} {}", workload.name, workload.title));
        }
        return Ok(());
    }
    let chosen = choose(&all, &arguments.workloads)?;
    let place = arguments.place()?;
    raise_open_files()?;
    let (mut broken, mut missed) = (Vec::new(), Vec::new());
    for workload in chosen {
        let plan = arguments.plan(workload.measure);
        let quick =
            arguments.quick.then(|| vec![workload.cells[0].clone().cut_to(QUICK_CONNECTIONS)]);
        let cells = quick.as_ref().unwrap_or(&workload.cells);
        let outcomes: Vec<_> = cells
            .iter()
            .map(|cell| run_cell(cell, workload.measure, &plan, &place, tell))
            .collect();
        broken.extend(
            outcomes
                .iter()
                .filter(|outcome| !results::is_usable(outcome))
                .map(|outcome| format!("{}: {}", workload.name, outcome.cell.name)),
        );
        missed.extend(results::missed(&outcomes));
        let origin = Origin::of(workload, &plan, &place);
        arguments.write(workload, &outcomes, &origin, &place, tell)?;
    }
    if !broken.is_empty() {
        return Err(io::Error::other(format!("no comparison came of {}", broken.join("; "))));
    }
    if arguments.gate && !missed.is_empty() {
        return Err(io::Error::other(format!("goals missed: {}", missed.join("; "))));
    }
    Ok(())
}

fn choose<'a>(all: &'a [Workload], names: &[String]) -> io::Result<Vec<&'a Workload>> {
    if names.iter().any(|name| name == "all") {
        return Ok(all.iter().collect());
    }
    let find = |name: &String| {
        all.iter().find(|workload| workload.name == name).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|workload| workload.name).collect();
            io::Error::other(format!("there is no workload {name}: {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// Proxies and their load need two open files for each connection.
fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}

impl PeersArguments {
    fn place(&self) -> io::Result<Place> {
        let current = std::env::current_exe()?;
        let programs = current.parent().map(PathBuf::from).unwrap_or_default();
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let place = Place {
            templates: absolute(&self.templates)?,
            scratch: absolute(&self.scratch)?,
            programs,
            server_cpu: self.server_cpu,
            load_cpu: self.load_cpu,
        };
        contender::make_scratch(&place)?;
        Ok(place)
    }

    fn plan(&self, what: Measure) -> Plan {
        /// A Ping's period, so that each connection has one.
        const IDLE_SECONDS: u64 = 25;
        let [warm_up, duration] = match (self.quick, what) {
            (true, _) => [300, 700].map(Duration::from_millis),
            (false, Measure::Idle { .. }) => [5, IDLE_SECONDS].map(Duration::from_secs),
            (false, _) => [Duration::from_secs(1), Duration::from_secs_f64(self.seconds)],
        };
        // A quick run looks whether things work, also where others use the processors.
        let lag_max = Duration::from_millis(if self.quick { 10_000 } else { 5 });
        let timing = Timing { warm_up, duration, patience: Duration::from_secs(1), lag_max };
        if self.quick {
            return Plan { rounds: 1, rate_rounds: 0, timing };
        }
        // Memory hardly differs from run to run, and each takes a minute.
        let is_idle = matches!(what, Measure::Idle { .. });
        let rounds = if is_idle { self.rounds.min(3) } else { self.rounds };
        Plan { rounds, rate_rounds: self.rate_rounds, timing }
    }

    fn write(
        &self,
        workload: &Workload,
        outcomes: &[CellOutcome<'_>],
        origin: &Origin,
        place: &Place,
        tell: &mut dyn FnMut(&str),
    ) -> io::Result<()> {
        let name = format!("{}.svg", workload.name);
        let pictures = match self.results.as_ref().and_then(|file| file.parent()) {
            Some(folder) => folder.join("results"),
            None => place.scratch.clone(),
        };
        fs::create_dir_all(&pictures)?;
        chart::draw(&pictures.join(&name), workload, outcomes, &origin.footer())
            .map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        let section = results::section(workload, outcomes, origin, &format!("results/{name}"));
        tell(&section);
        if let Some(file) = &self.results {
            let earlier = fs::read_to_string(file).unwrap_or_default();
            fs::write(file, results::replace(&earlier, workload, &section))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_chosen_by_name() {
        let all = workloads();
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(choose(&all, &names(&["all"])).unwrap().len(), all.len());
        let chosen = choose(&all, &names(&["idle", "routed"])).unwrap();
        assert_eq!(chosen.iter().map(|w| w.name).collect::<Vec<_>>(), ["idle", "routed"]);
        let refused = choose(&all, &names(&["rooted"])).unwrap_err().to_string();
        assert!(refused.contains("rooted") && refused.contains("routed-16"), "{refused}");
    }
}
