//! A whole shard over a ring without a kernel. The bytes are what its clients, its backends and the
//! control core do, one thing after another, in which order the shard has its turns, and what time
//! passes between them. One input is one run: it can be repeated.

mod acting;
mod control;
mod peer;
mod ring;
mod setting;
mod step;
mod world;

use arbitrary::{Arbitrary, Result, Unstructured};

use setting::Setting;
use step::Step;
use world::World;

/// Steps of one run: longer ones find nothing that shorter ones would not.
const STEPS_MAX: usize = 400;

/// The bytes say how the shard is configured, and what happens.
pub fn shard(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(setting) = Setting::arbitrary(&mut input) else { return };
    let mut world = World::new(&setting);
    let _input_is_used_up = follow(&mut world, &mut input);
    world.end();
}

fn follow(world: &mut World, input: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&Step::arbitrary(input)?);
    }
    Ok(())
}
