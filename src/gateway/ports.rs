//! The control core's ends of the lanes.

use std::cell::RefCell;
use std::rc::Rc;

use corelane_shard::id::ShardId;
use corelane_shard::lane::{ControlLanes, EventBell, ToControl, ToShard};
use tracing::error;

use crate::control::{Bell, ShardPort};

/// One shard as the control core reaches it.
pub(super) struct Port {
    pub(super) shard: ShardId,
    pub(super) lanes: Rc<RefCell<ControlLanes>>,
    pub(super) bell: EventBell,
}

/// A port for every shard, by the order of their bells.
pub(super) fn ports(lanes: &Rc<RefCell<ControlLanes>>, bells: &[EventBell]) -> Vec<Port> {
    let port = |(shard, bell): (u8, &EventBell)| Port {
        shard: ShardId(shard),
        lanes: Rc::clone(lanes),
        bell: bell.clone(),
    };
    (0..).zip(bells).map(port).collect()
}

impl ShardPort for Port {
    fn receive(&mut self) -> Option<ToControl> {
        self.lanes.borrow_mut().hear(self.shard)
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        self.lanes.borrow_mut().tell(self.shard, message)
    }

    fn has_room(&self) -> bool {
        self.lanes.borrow().has_room(self.shard)
    }

    fn ring(&mut self) {
        let bell = &self.bell;
        self.lanes.borrow_mut().wake_sleeper(self.shard, || {
            if let Err(reason) = bell.ring() {
                error!(%reason, "a shard cannot be woken");
            }
        });
    }
}

pub(super) struct LaneBell(pub(super) Rc<RefCell<ControlLanes>>);

impl Bell for LaneBell {
    fn announce_sleep(&self) {
        // The caller looks at every lane once more after this, as the protocol wants.
        let _either_way = self.0.borrow_mut().prepare_park();
    }

    fn awake(&self) {
        self.0.borrow_mut().awake();
    }
}
