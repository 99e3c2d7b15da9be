//! Messages between sessions of two nodes: two pairs of shards, and the test in the place of the
//! control cores and of the link between them.

use std::sync::Arc;

use super::full_lane::{ANNA, BERT, CARL, Pair, Player, delivered};
use super::setting::{SALT, SHARDS, Setting};
use super::talk::Asked;
use crate::engine::Relaying;
use crate::id::{ConnectionKey, ShardId};
use crate::lane::{
    ABROAD_SHARE, Abroad, Acknowledge, AnswerFromAbroad, FromAbroad, ToControl, ToShard, WayBack,
};
use crate::wire::frame::{OpCode, server_header_len, write_server_header};
use crate::wire::guid::{Guid, PeerKeys};
use crate::wire::header::{Flags, Priority, RequestHeader};

const ALL: Relaying = Relaying { messages: true, broadcasts: true };
const BACK: WayBack = WayBack { link: 7, number: 8, sender: 9 };

fn node(node: u16, relaying: Relaying) -> Pair {
    let mut setting = Setting::roomy();
    (setting.node, setting.relaying) = (node, relaying);
    Pair::of(&setting)
}

/// The one message that a shard has given to the control core for another node.
fn leaving(node: &mut Pair) -> (ShardId, Abroad) {
    let (shard, message) = node.abroad.pop().expect("it has left");
    assert!(node.abroad.is_empty(), "once");
    match message {
        ToControl::Abroad(abroad) => (shard, *abroad),
        other => panic!("{other:?}"),
    }
}

/// Gives a message to the target's shard, and says whether it was delivered.
fn arrive(node: &mut Pair, message: &[u8], priority: Priority) -> bool {
    let header = RequestHeader::parse(message).unwrap();
    let route = PeerKeys::from_salt(SALT).decode(header.guid).expect("a genuine GUID");
    let target = ConnectionKey { slot: route.slot, generation: route.generation };
    let letter = FromAbroad { target, message: message.into(), priority, back: BACK };
    node.tell(route.shard, ToShard::FromAbroad(Box::new(letter)));
    node.turns();
    let (shard, back) = node.abroad.pop().expect("it comes back");
    assert!(node.abroad.is_empty(), "once");
    let ToControl::Arrived { letter, delivered } = back else { panic!("{back:?}") };
    assert_eq!((shard, letter.back, &*letter.message), (route.shard, BACK, message));
    delivered
}

/// The other node's answer.
fn answer(node: &mut Pair, shard: ShardId, abroad: &Abroad, delivered: bool) {
    let header = RequestHeader::parse(&abroad.message).unwrap();
    let (to, reply, guid) = (abroad.from, header.reply_to(), header.guid.0);
    let answer = AnswerFromAbroad { to, reply, guid, delivered };
    node.tell(shard, ToShard::AbroadAnswered(Box::new(answer)));
    node.turns();
}

fn guid(player: &Player) -> Guid {
    player.talk.guid.expect("the mode is Relayed")
}

#[test]
fn a_message_to_another_node_arrives_there_and_its_sender_is_told() {
    for (from, to) in [(0, 0), (0, 1), (1, 0)] {
        let (mut here, mut there) = (node(1, ALL), node(2, ALL));
        let (mut anna, mut bert) = (here.enter(from, ANNA), there.enter(to, BERT));
        // In a receive buffer, and in a block.
        for (number, filler) in [(0, 0), (1, 3000)] {
            here.say(&mut anna, Asked::Peer, Flags::NONE, guid(&bert), filler);
            here.turns();
            let (shard, abroad) = leaving(&mut here);
            assert_eq!((shard, abroad.node), (ShardId(from as u8), 2));
            assert_eq!(abroad.acknowledge, Acknowledge::Always);
            assert!(arrive(&mut there, &abroad.message, abroad.priority));
            there.hear(&mut bert);
            assert!(bert.talk.has_received(anna.talk.serial, number));
            here.hear(&mut anna);
            assert_eq!(
                delivered(&anna).len(),
                number as usize,
                "not before the other node says so"
            );
            answer(&mut here, shard, &abroad, true);
            here.hear(&mut anna);
            assert_eq!(delivered(&anna).len(), number as usize + 1);
        }
        for node in [&here, &there] {
            assert_eq!(node.shed(), []);
            node.assert_all_came_back();
        }
    }
}

#[test]
fn a_message_that_the_other_node_refuses_is_answered_31_whether_it_wanted_an_answer_or_not() {
    let (mut here, mut there) = (node(1, ALL), node(2, ALL));
    let (mut anna, bert) = (here.enter(0, ANNA), there.enter(0, BERT));
    let mut carl = there.enter(1, CARL);
    for (count, flags) in [(1, Flags::NONE), (2, Flags::EVENT)] {
        here.say(&mut anna, Asked::Peer, flags, guid(&bert), 0);
        here.turns();
        let (shard, mut abroad) = leaving(&mut here);
        let wanted =
            if flags == Flags::NONE { Acknowledge::Always } else { Acknowledge::OnRefusal };
        assert_eq!(abroad.acknowledge, wanted);
        // Of nobody any more: the next tenant of his slot.
        let keys = PeerKeys::from_salt(SALT);
        let mut route = keys.decode(guid(&bert)).unwrap();
        route.generation = route.generation.next();
        let mut header = RequestHeader::parse(&abroad.message).unwrap();
        header.guid = keys.encode(route);
        abroad.message[..RequestHeader::LEN].copy_from_slice(&header.to_bytes());
        assert!(!arrive(&mut there, &abroad.message, abroad.priority));
        answer(&mut here, shard, &abroad, false);
        here.hear(&mut anna);
        assert_eq!((anna.talk.count(31), delivered(&anna)), (count, vec![]));
    }
    there.hear(&mut carl);
    assert_eq!(there.shed(), [("peer_gone", 2)]);
}

#[test]
fn forged_guids_and_those_of_nodes_that_nothing_is_relayed_to_leave_nothing() {
    for relaying in [ALL, Relaying::default()] {
        let (mut here, mut there) = (node(1, relaying), node(2, relaying));
        let (mut anna, bert) = (here.enter(0, ANNA), there.enter(0, BERT));
        let forged = Guid((u128::from_be_bytes(guid(&bert).0) ^ 1).to_be_bytes());
        here.say(&mut anna, Asked::Peer, Flags::NONE, forged, 0);
        let mut refused = 1;
        if relaying == Relaying::default() {
            here.say(&mut anna, Asked::Peer, Flags::NONE, guid(&bert), 0);
            refused += 1;
        }
        here.turns();
        here.hear(&mut anna);
        assert_eq!(anna.talk.count(31), refused);
        assert!(here.abroad.is_empty());
        assert_eq!(here.shed(), [("peer_gone", refused)]);
    }
}

#[test]
fn a_message_that_finds_the_lane_to_the_control_core_taken_is_answered_31() {
    let (mut here, mut there) = (node(1, ALL), node(2, ALL));
    let (mut anna, bert) = (here.enter(0, ANNA), there.enter(0, BERT));
    let mut carl = here.enter(0, CARL);
    let room = Setting::roomy().mesh.control_capacity / ABROAD_SHARE;
    here.deaf = true;
    for _ in 0..room + 2 {
        here.say(&mut anna, Asked::Peer, Flags::EVENT, guid(&bert), 0);
    }
    here.say(&mut anna, Asked::Broadcast, Flags::NONE, Guid::BROADCAST, 0);
    here.turns();
    here.hear(&mut anna);
    here.hear(&mut carl);
    assert_eq!(anna.talk.count(31), 2);
    assert_eq!(here.shed(), [("lane_full", 2), ("broadcast_lane_full", 1)]);
    assert!(carl.talk.has_received(anna.talk.serial, room as u32 + 2), "here it is heard");
    here.deaf = false;
    here.turns();
    assert_eq!(here.abroad.len(), room);
    here.assert_all_came_back();
}

#[test]
fn a_broadcast_leaves_once_and_only_where_it_is_relayed() {
    for broadcasts in [true, false] {
        let mut here = node(1, Relaying { broadcasts, ..ALL });
        let (mut anna, mut bert) = (here.enter(0, ANNA), here.enter(1, BERT));
        for filler in [0, 3000] {
            here.say(&mut anna, Asked::Broadcast, Flags::NONE, Guid::BROADCAST, filler);
            here.turns();
            let left = std::mem::take(&mut here.abroad);
            assert_eq!(left.len(), usize::from(broadcasts));
            for (shard, message) in left {
                let ToControl::BroadcastAbroad { message, .. } = message else {
                    panic!("{message:?}")
                };
                assert_eq!(shard, ShardId(0));
                let header = RequestHeader::parse(&message).unwrap();
                assert_eq!(header.guid, Guid::BROADCAST);
            }
        }
        here.hear(&mut bert);
        assert!([0, 1].iter().all(|number| bert.talk.has_received(anna.talk.serial, *number)));
        here.assert_all_came_back();
    }
}

#[test]
fn a_broadcast_of_another_node_reaches_every_session_and_leaves_no_more() {
    let (mut here, mut there) = (node(1, ALL), node(2, ALL));
    let mut anna = here.enter(0, ANNA);
    let mut others = [there.enter(0, BERT), there.enter(1, CARL)];
    here.say(&mut anna, Asked::Broadcast, Flags::NONE, Guid::BROADCAST, 100);
    here.turns();
    let Some((_, ToControl::BroadcastAbroad { message, priority })) = here.abroad.pop() else {
        panic!("it has not left")
    };
    let mut frame = vec![0; server_header_len(message.len())];
    write_server_header(&mut frame, OpCode::Binary, message.len());
    frame.extend_from_slice(&message);
    let frame: Arc<[u8]> = frame.into();
    for shard in 0..SHARDS as u8 {
        let frame = Arc::clone(&frame);
        there.tell(ShardId(shard), ToShard::BroadcastFromAbroad { frame, priority });
    }
    there.turns();
    for player in &mut others {
        there.hear(player);
        assert!(player.talk.has_received(anna.talk.serial, 0));
    }
    assert!(there.abroad.is_empty());
    there.assert_all_came_back();
}
