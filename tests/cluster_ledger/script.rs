//! What happens in a run, all of it made from one seed: who is published to, whose client is killed,
//! and what is broken when.

use fastrand::Rng;

/// How large a run is, and what it breaks.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) sessions: usize,
    pub(crate) events: u64,
    pub(crate) faults: usize,
    /// In turn, so that each is seen as often as the others.
    pub(crate) kinds: &'static [Fault],
    pub(crate) gateways: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Many clients at once.
    KillClients,
    KillGateway,
    /// Stands still for longer than its lease lasts.
    FreezeGateway,
    RestartRedis,
    KillRedis,
    FreezeRedis,
    RestartKafka,
    KillKafka,
    FreezeKafka,
}

pub(crate) const OF_ONE_GATEWAY: &[Fault] = &[Fault::KillClients];

pub(crate) const OF_A_CLUSTER: &[Fault] = &[
    Fault::KillClients,
    Fault::KillGateway,
    Fault::FreezeGateway,
    Fault::RestartRedis,
    Fault::KillRedis,
    Fault::FreezeRedis,
    Fault::RestartKafka,
    Fault::KillKafka,
    Fault::FreezeKafka,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// One event for this session.
    Publish(usize),
    /// The client of this session, without a good-bye.
    Kill(usize),
    /// What is broken, and at which gateway if it is one.
    Break(Fault, usize),
}

/// One client is killed for so many events.
const EVENTS_PER_KILL: u64 = 100;

/// Faults come in the order of the kinds, shuffled in each round, spread evenly over the events.
pub(crate) fn acts(seed: u64, shape: &Shape) -> impl Iterator<Item = Act> {
    let mut random = Rng::with_seed(seed);
    let mut faults = Vec::with_capacity(shape.faults);
    while faults.len() < shape.faults {
        let mut round = shape.kinds.to_vec();
        random.shuffle(&mut round);
        faults.extend(round.into_iter().take(shape.faults - faults.len()));
    }
    let (sessions, gateways, events) = (shape.sessions, shape.gateways, shape.events);
    let between = events / (shape.faults as u64 + 1);
    let mut faults = faults.into_iter();
    let mut broken = 0;
    (1..=events).flat_map(move |number| {
        let publish = Act::Publish(random.usize(..sessions));
        let kill = random.u64(..EVENTS_PER_KILL) == 0;
        let kill = kill.then(|| Act::Kill(random.usize(..sessions)));
        let due = number >= (broken + 1) * between;
        let fault = due.then(|| faults.next()).flatten();
        broken += u64::from(fault.is_some());
        let fault = fault.map(|fault| Act::Break(fault, random.usize(..gateways)));
        [Some(publish), kill, fault].into_iter().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { sessions: 20, events: 10_000, faults: 30, kinds: OF_A_CLUSTER, gateways: 2 }
    }

    #[test]
    fn a_seed_replays_its_script_and_another_gives_another() {
        let script = |seed| acts(seed, &shape()).collect::<Vec<_>>();
        assert_eq!(script(7), script(7));
        assert_ne!(script(7), script(8));
    }

    #[test]
    fn a_script_has_all_events_and_faults_that_were_asked_for() {
        for seed in 0..20 {
            let script: Vec<_> = acts(seed, &shape()).collect();
            let count = |of: fn(&Act) -> bool| script.iter().filter(|act| of(act)).count();
            assert_eq!(count(|act| matches!(act, Act::Publish(_))), 10_000);
            assert_eq!(count(|act| matches!(act, Act::Break(..))), 30);
            let kills = count(|act| matches!(act, Act::Kill(_)));
            assert!((50..200).contains(&kills), "{kills} of about 100");
            for kind in OF_A_CLUSTER {
                let times =
                    script.iter().filter(|act| matches!(act, Act::Break(it, _) if it == kind));
                assert!(times.count() >= 3, "{kind:?}");
            }
        }
    }

    #[test]
    fn every_session_is_published_to_and_every_gateway_has_faults() {
        let script: Vec<_> = acts(1, &shape()).collect();
        for session in 0..20 {
            assert!(script.contains(&Act::Publish(session)), "{session}");
        }
        for gateway in 0..2 {
            assert!(script.iter().any(|act| matches!(act, Act::Break(_, at) if *at == gateway)));
        }
    }

    #[test]
    fn faults_are_spread_over_the_whole_run_and_none_ends_it() {
        let script: Vec<_> = acts(3, &shape()).collect();
        let mut published = 0;
        let mut at = Vec::new();
        for act in script {
            match act {
                Act::Publish(_) => published += 1,
                Act::Break(..) => at.push(published),
                Act::Kill(_) => {}
            }
        }
        let between = 10_000 / 31;
        let expected: Vec<_> = (1..=30).map(|number| number * between).collect();
        assert_eq!(at, expected);
    }
}
