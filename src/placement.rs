//! Which thread runs on which core.

use std::fmt;

use crate::config::Config;

/// The cores of this process's threads; `None` is left to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub control: Option<usize>,
    /// By shard.
    pub shards: Vec<Option<usize>>,
}

impl Placement {
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let cores: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect();
        let shards = config.shard_count(cores.len().max(1));
        Self::on(&cores, shards, config.control.cpu)
    }

    /// Control takes the first core, shards the rest in turn and, when there are more shards than
    /// that, the first one too.
    fn on(cores: &[usize], shards: usize, control: crate::config::Auto<usize>) -> Self {
        if cores.is_empty() {
            return Self { control: None, shards: vec![None; shards] };
        }
        Self {
            control: Some(control.unwrap_or_else(|| cores[0])),
            shards: (1..=shards).map(|index| Some(cores[index % cores.len()])).collect(),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = |core: Option<usize>| core.map_or("any".to_owned(), |core| core.to_string());
        write!(f, "control on core {}", core(self.control))?;
        for (shard, place) in self.shards.iter().enumerate() {
            write!(f, ", shard {shard} on core {}", core(*place))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Auto;

    #[test]
    fn shards_take_the_cores_that_control_does_not() {
        let placement = Placement::on(&[0, 1, 2, 3], 3, Auto::Auto);
        assert_eq!(placement.control, Some(0));
        assert_eq!(placement.shards, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn a_second_shard_on_two_cores_stands_beside_control() {
        let placement = Placement::on(&[0, 1], 2, Auto::Auto);
        assert_eq!(placement.shards, [Some(1), Some(0)]);
        let text = "control on core 0, shard 0 on core 1, shard 1 on core 0";
        assert_eq!(placement.to_string(), text);
    }
}
