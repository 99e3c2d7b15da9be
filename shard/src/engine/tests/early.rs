//! What comes behind a request head before it is answered, and answers for which there is no room.

use std::thread;

use super::client::{BINARY, CLOSE, Client, HEAD, PING, PONG, whole};
use super::rig::Shape;
use crate::block::{BLOCK_MIN, Block};
use crate::engine::Engine;
use crate::ring::Uring;

#[test]
fn nothing_overtakes_the_101() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    let client = thread::spawn(move || {
        let mut client = Client::connect(address);
        client.upgrade(&[whole(BINARY, b"first"), whole(PING, b"second")].concat());
        let mut heard = [client.next().unwrap(), client.next().unwrap()];
        heard.sort();
        assert_eq!(heard, [(BINARY, b"first".to_vec()), (PONG, b"second".to_vec())]);
        client.send(CLOSE, &1000u16.to_be_bytes());
        client.rest().unwrap();
    });
    rig.run(client);
    rig.until_nothing_is_left();
}

fn all_blocks(engine: &mut Engine<Uring>) -> Vec<Block> {
    let largest = (0..16).rev().map(|class| BLOCK_MIN << class);
    largest
        .flat_map(|len| std::iter::from_fn(|| engine.blocks.take(len)).collect::<Vec<_>>())
        .collect()
}

#[test]
fn whoever_cannot_be_answered_is_cut_off_and_counted_no_longer() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    let taken = all_blocks(&mut rig.engine);
    let nowhere: &[u8] = b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n";
    for head in [HEAD, nowhere] {
        let client = thread::spawn(move || {
            let mut client = Client::connect(address);
            client.write(head);
            assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
        });
        rig.run(client);
    }
    rig.until("connections are left", |engine| engine.table.is_empty());
    assert_eq!(rig.engine.downstream, 0);
    for block in taken {
        rig.engine.blocks.give_back(block);
    }
    rig.until_nothing_is_left();
}
