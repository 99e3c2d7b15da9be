//! `corelane check`: the verdict on a configuration, before anybody depends on it.

use std::thread::available_parallelism;

use super::{Failure, output};
use crate::config::{ConfigSource, MemoryBudget, physical_memory, reload_table};

pub(super) fn run(source: &ConfigSource) -> Result<(), Failure> {
    let config = source.load()?;
    let cores = available_parallelism().map_or(1, usize::from);
    let shards = config.shard_count(cores);
    let budget = MemoryBudget::of(&config, shards);

    output::line("keys (live: a reload changes it; restart: a reload that changes it is refused)");
    output::line(reload_table().trim_end());
    output::line("");
    output::line(&format!("memory when every bound is reached (shards: {shards}, cores: {cores})"));
    output::line(&budget.to_string());
    for warning in config.warnings() {
        output::line(&format!("warning: {warning}"));
    }
    budget.fits(&config, physical_memory()).map_err(Failure::Usage)?;
    output::line("configuration is valid");
    Ok(())
}
