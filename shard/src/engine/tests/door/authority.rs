//! A node that is not sure that its sessions are still its own.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::id::{ConnectionKey, Place};
use crate::lane::{Content, Delivery};

struct Node {
    rig: Rig,
    sure: Rc<Cell<bool>>,
    client: Client,
    key: ConnectionKey,
}

/// A node with a session whose client has read what comes first.
fn node() -> Node {
    let sure = Rc::new(Cell::new(true));
    let asked = Rc::clone(&sure);
    let is_sure: Option<Box<dyn Fn() -> bool>> = Some(Box::new(move || asked.get()));
    let mut rig = Shape { is_sure, ..shape() }.build();
    let client = opened(&mut rig, &["Authorization: Bearer 7"]);
    let (client, _, _manifest) = next(&mut rig, client);
    let key = rig.engine.table.iter().map(|(key, _)| key).next().unwrap();
    Node { rig, sure, client, key }
}

impl Node {
    fn deliver(&mut self, place: Option<Place>, content: Content) {
        let (key, epoch) = (self.key, Epoch(1));
        let delivery = Delivery { key, epoch, place, content };
        self.rig.tell(ToShard::Deliver(delivery));
    }

    fn event(&mut self, place: u64, text: &str) {
        let json = format!(r#"{{"text":"{text}"}}"#).into_bytes();
        self.deliver(Some(Place(place)), Content::Event(json.into()));
    }

    /// The body of the next message behind its header.
    fn reads(mut self) -> (Self, String) {
        let (client, opcode, payload) = next(&mut self.rig, self.client);
        assert_eq!(opcode, BINARY);
        let body = String::from_utf8(payload[31..].to_vec()).unwrap();
        (Self { client, ..self }, body)
    }

    fn withheld(&self) -> u64 {
        self.rig.engine.probe.deliveries_withheld.read()
    }
}

#[test]
fn events_wait_in_order_until_the_node_is_sure_again() {
    let mut node = node();
    node.sure.set(false);
    node.event(1, "a");
    node.event(2, "b");
    // What no other node would deliver does not wait.
    let message = [&[0; 31][..], b"passing"].concat();
    node.deliver(None, Content::Message(message.into()));
    let (mut node, body) = node.reads();
    assert_eq!((body.as_str(), node.withheld()), ("passing", 2));
    node.sure.set(true);
    node.event(3, "c");
    for text in ["a", "b", "c"] {
        let body;
        (node, body) = node.reads();
        assert!(body.contains(&format!(r#""text":"{text}""#)), "{body}");
    }
    assert!(node.rig.engine.withheld.next_look().is_none());
}

#[test]
fn events_of_a_session_that_was_lost_meanwhile_reach_nobody() {
    let mut node = node();
    node.sure.set(false);
    node.event(1, "a");
    node.rig.until("the event is kept back", |engine| engine.probe.deliveries_withheld.read() == 1);
    node.rig.tell(ToShard::Evict { key: node.key, epoch: Epoch(1) });
    let (client, opcode, payload) = next(&mut node.rig, node.client);
    assert_eq!((opcode, &payload[..2]), (CLOSE, &4002_u16.to_be_bytes()[..]));
    node.sure.set(true);
    drop(client);
    node.rig.until("nothing is kept back", |engine| engine.withheld.next_look().is_none());
    node.rig.until_nothing_is_left();
}
