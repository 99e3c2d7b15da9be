//! The rules of the ring, each on the real kernel over loopback.

mod rig;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant as Moment};

use io_uring::opcode;
use io_uring::types::Fixed;

use super::{Operation, RingDirectory, Tag};
use crate::clock::Instant;
use crate::id::ShardId;
use crate::pump::sample_clocks;
use crate::sockets::{
    AcceptEnd, Completion, ListenerId, Pending, ReceiveEnd, Sent, Socket, Sockets, Wait,
};
use rig::{PATIENCE, Setup, TINY, key, noise, read, reset, rig};

fn mono() -> Instant {
    sample_clocks().mono
}

#[test]
fn a_full_submission_queue_is_submitted_and_nothing_of_it_is_dropped() {
    let mut rig = Setup { entries: 8, ..Setup::default() }.build();
    let clients: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    let enters = rig.uring.enters();
    for (at, (_, socket)) in clients.iter().enumerate() {
        rig.send(*socket, key(at), &noise(at as u64, 500));
    }
    rig.exchange(Wait::No);
    let enters = rig.uring.enters() - enters;
    assert!(enters >= 100 / 8 - 1, "the queue was full: {enters} enters");
    let mut settled: Vec<_> =
        rig.settled.drain(..).map(|(key, _, sent)| (key.slot.0, sent)).collect();
    settled.sort_by_key(|(slot, _)| *slot);
    assert_eq!(settled, (0..100).map(|slot| (slot, Sent::All)).collect::<Vec<_>>());
    for (at, (client, _)) in clients.iter().enumerate() {
        assert_eq!(read(client, 500), noise(at as u64, 500));
    }
}

#[test]
fn a_send_that_succeeds_posts_no_completion_and_returns_its_bytes() {
    let mut rig = rig();
    let (client, socket) = rig.connect();
    rig.taken();
    let block = rig.block(b"whole");
    let address = block.as_slice().as_ptr();
    rig.uring.send(socket, key(1), block);
    rig.exchange(Wait::No);
    assert_eq!(rig.uring.backlog(), 0);
    let (of, bytes, sent) = rig.settled.pop().unwrap();
    assert_eq!((of, sent, bytes.as_slice()), (key(1), Sent::All, &b"whole"[..]));
    assert_eq!(bytes.as_slice().as_ptr(), address, "the very memory that was sent from");
    assert_eq!(read(&client, 5), b"whole");
}

#[test]
fn a_partial_send_is_known_exactly_behind_a_thousand_completions() {
    let mut rig = Setup { entries: 4096, send_buffer: TINY, ..Setup::default() }.build();
    let (client, socket) = rig.connect_narrow();
    let stream = noise(7, 300 << 10);
    let reader = thread::spawn(move || read(&client, 300 << 10));
    let (mut sent, mut partial) = (0, 0);
    while sent < stream.len() {
        // Closing what is not open completes at once: these stand in front of the send.
        for _ in 0..1000 {
            rig.uring.close(Socket(200), key(5), Pending::Nothing);
        }
        let end = stream.len().min(sent + (48 << 10));
        rig.send(socket, key(1), &stream[sent..end]);
        rig.exchange(Wait::No);
        assert!(rig.uring.backlog() >= 1000, "the others wait, the send does not");
        let (of, outgoing, outcome) = rig.settled.pop().unwrap();
        assert_eq!(of, key(1));
        sent += match outcome {
            Sent::All => end - sent,
            Sent::Partial(taken) => {
                partial += usize::from(taken > 0);
                taken
            }
            Sent::Failed => panic!("the reader is alive"),
        };
        // The same memory carries other bytes in the next round.
        rig.recycle(outgoing);
        rig.taken();
    }
    assert!(partial > 3, "only {partial} sends were taken in part");
    assert!(reader.join().unwrap() == stream, "every byte, in order");
}

#[test]
fn a_send_to_a_dead_peer_settles_as_failed() {
    let mut rig = rig();
    let (client, socket) = rig.connect();
    reset(client).unwrap();
    let give_up = Moment::now() + PATIENCE;
    while rig.send_now(socket, key(1), b"anybody there?") != Sent::Failed {
        assert!(Moment::now() < give_up, "the peer is dead");
    }
}

#[test]
fn the_rest_of_a_send_waits_for_the_reader() {
    let mut rig = Setup { send_buffer: TINY, ..Setup::default() }.build();
    let (client, socket) = rig.connect_narrow();
    let mut expected = rig.fill(socket, key(1));
    let rest = noise(3, 200 << 10);
    let block = rig.block(&rest);
    rig.uring.send_rest(socket, key(1), block);
    for _ in 0..50 {
        rig.exchange(Wait::No);
        assert!(rig.settled.is_empty(), "nobody has read yet");
    }
    expected.extend_from_slice(&rest);
    let len = expected.len();
    let reader = thread::spawn(move || read(&client, len));
    let (bytes, sent) = rig.until_settled(key(1));
    assert_eq!((sent, bytes.as_slice().len()), (Sent::All, rest.len()));
    assert!(reader.join().unwrap() == expected, "every byte, in order");
}

#[test]
fn closing_cancels_the_rest_of_a_send_and_returns_its_bytes() {
    let mut rig = Setup { send_buffer: TINY, ..Setup::default() }.build();
    let (_client, socket) = rig.connect_narrow();
    rig.fill(socket, key(1));
    let block = rig.block(b"too late");
    rig.uring.send_rest(socket, key(1), block);
    rig.exchange(Wait::No);
    assert!(rig.settled.is_empty());
    rig.uring.close(socket, key(1), Pending::Unknown);
    let (bytes, sent) = rig.until_settled(key(1));
    assert_eq!((sent, bytes.as_slice()), (Sent::Failed, &b"too late"[..]));
    rig.until("the confirmation", |c| matches!(c, Completion::Closed { .. }).then_some(()));
}

#[test]
fn a_receive_without_buffers_ends_and_goes_on_when_some_are_provided() {
    let mut rig = Setup { buffers: 4, ..Setup::default() }.build();
    let (mut client, socket) = rig.connect();
    let stream = noise(5, 60_000);
    client.write_all(&stream).unwrap();
    let (mut received, mut held, mut held_bytes, mut dry) = (Vec::new(), Vec::new(), 0, 0);
    let give_up = Moment::now() + PATIENCE;
    rig.uring.receive(socket, key(1));
    while received.len() < stream.len() {
        assert!(Moment::now() < give_up, "{} bytes came", received.len());
        rig.exchange(Wait::No);
        for completion in rig.taken() {
            if let Completion::Received { len, .. } = completion {
                held_bytes += len as usize;
                held.push(completion);
            } else if let Completion::ReceiveEnded { cause, .. } = completion {
                assert_eq!((cause, held.len()), (ReceiveEnd::NoBuffers, 4));
                dry += 1;
                held.drain(..).for_each(|completion| received.append(&mut rig.take(&completion)));
                rig.uring.receive(socket, key(1));
            }
        }
        if held_bytes == stream.len() {
            held.drain(..).for_each(|completion| received.append(&mut rig.take(&completion)));
        }
    }
    assert_eq!(dry, 60_000 / (4 * 2048), "it ran dry each time that all four were full");
    assert!(received == stream, "every byte, in order");
}

fn receive_end(rig: &mut rig::Rig) -> ReceiveEnd {
    rig.until("the end of the receive", |completion| match completion {
        Completion::ReceiveEnded { cause, .. } => Some(*cause),
        _ => None,
    })
}

#[test]
fn the_ways_in_which_a_peer_ends_are_told_apart() {
    let mut rig = rig();
    let (mut client, socket) = rig.connect();
    rig.uring.receive(socket, key(1));
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_end(&mut rig), ReceiveEnd::Eof);
    let tail: Vec<_> = rig.taken().iter().flat_map(|completion| rig.take(completion)).collect();
    assert_eq!(tail, b"last words");
    // Half-closed: it still listens.
    assert_eq!(rig.send_now(socket, key(1), b"still there"), Sent::All);
    assert_eq!(read(&client, 11), b"still there");

    let (client, socket) = rig.connect();
    rig.uring.receive(socket, key(2));
    drop(client);
    assert_eq!(receive_end(&mut rig), ReceiveEnd::Eof);
    let give_up = Moment::now() + PATIENCE;
    while rig.send_now(socket, key(2), b"gone") != Sent::Failed {
        assert!(Moment::now() < give_up, "closed both ways: what is sent is answered by a reset");
    }

    let (client, socket) = rig.connect();
    rig.uring.receive(socket, key(3));
    rig.exchange(Wait::No);
    reset(client).unwrap();
    assert_eq!(receive_end(&mut rig), ReceiveEnd::Failed(libc::ECONNRESET));
}

#[test]
fn a_cancelled_receive_ends_behind_what_had_arrived_and_loses_nothing() {
    let mut rig = rig();
    let (mut client, socket) = rig.connect();
    let stream = noise(11, 1 << 20);
    let writer = {
        let stream = stream.clone();
        thread::spawn(move || client.write_all(&stream).map(|()| client).unwrap())
    };
    let (mut received, mut cancelled, mut armed) = (Vec::new(), 0, false);
    let give_up = Moment::now() + PATIENCE;
    while received.len() < stream.len() {
        assert!(Moment::now() < give_up, "{} bytes came", received.len());
        if !armed {
            rig.uring.receive(socket, key(1));
            armed = true;
        }
        rig.exchange(Wait::No);
        rig.uring.stop_receiving(key(1));
        rig.exchange(Wait::No);
        for completion in rig.taken() {
            assert!(armed, "{completion:?} behind the end of the receive");
            match completion {
                Completion::ReceiveEnded { cause, .. } => {
                    armed = false;
                    cancelled += usize::from(cause == ReceiveEnd::Cancelled);
                }
                completion => received.append(&mut rig.take(&completion)),
            }
        }
    }
    assert!(cancelled > 0);
    assert!(received == stream, "every byte, in order");
    drop(writer.join().unwrap());
}

#[test]
fn more_completions_than_the_queue_holds_lose_nothing() {
    let mut rig = Setup { entries: 8, buffers: 512, ..Setup::default() }.build();
    let mut clients: Vec<_> = (0..40).map(|_| rig.connect()).collect();
    for (at, (_, socket)) in clients.iter().enumerate() {
        rig.uring.receive(*socket, key(at));
    }
    rig.exchange(Wait::No);
    for (at, (client, _)) in clients.iter_mut().enumerate() {
        client.write_all(&noise(at as u64, 20_000)).unwrap();
    }
    let (mut received, mut overflowed) = (vec![Vec::new(); 40], false);
    let give_up = Moment::now() + PATIENCE;
    while received.iter().any(|bytes| bytes.len() < 20_000) {
        assert!(Moment::now() < give_up, "{:?}", received.iter().map(Vec::len).collect::<Vec<_>>());
        rig.exchange(Wait::No);
        for completion in rig.taken() {
            match completion {
                Completion::Received { key, .. } => {
                    let bytes = rig.take(&completion);
                    received[key.slot.0 as usize].extend_from_slice(&bytes);
                }
                // The kernel ends a multishot whose completion finds no place in the queue.
                Completion::ReceiveEnded { key, cause } => {
                    assert_eq!(cause, ReceiveEnd::Rearm);
                    overflowed = true;
                    rig.uring.receive(clients[key.slot.0 as usize].1, key);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(overflowed, "32 entries were too few");
    for (at, bytes) in received.iter().enumerate() {
        assert!(*bytes == noise(at as u64, 20_000), "every byte of client {at}, in order");
    }
}

#[test]
fn a_partial_send_whose_completion_found_no_place_is_known_in_the_same_exchange() {
    let mut rig = Setup { entries: 8, buffers: 512, send_buffer: TINY, ..Setup::default() }.build();
    let (_narrow, target) = rig.connect_narrow();
    let mut talkers: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for (client, _) in &mut talkers {
        client.write_all(&noise(1, 64 << 10)).unwrap();
    }
    // Each of these fills the whole queue while it is being submitted, in front of the send.
    for (at, (_, socket)) in talkers.iter().enumerate() {
        rig.uring.receive(*socket, key(at));
    }
    rig.send(target, key(50), &noise(2, 1 << 20));
    rig.exchange(Wait::No);
    assert!(rig.uring.backlog() > 32, "the queue overflowed");
    let (_, _, sent) = rig.settled.pop().unwrap();
    assert!(matches!(sent, Sent::Partial(1..)), "{sent:?}: nobody reads the other end");
}

#[test]
fn a_bad_submission_does_not_stop_the_rest_of_its_batch() {
    let mut rig = rig();
    let clients: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    rig.taken();
    let enters = rig.uring.enters();
    for (at, (_, socket)) in clients.iter().enumerate() {
        if at == 4 {
            // Refused while it is being prepared: its address cannot be read.
            let unreadable = opcode::Connect::new(Fixed(socket.0), std::ptr::null(), 16).build();
            rig.uring.push(unreadable, Tag::of(Operation::Connect, key(100)));
            // Refused while it is being issued.
            rig.send(Socket(250), key(101), b"to nobody");
        }
        rig.send(*socket, key(at), b"to somebody");
    }
    rig.exchange(Wait::No);
    assert_eq!(rig.uring.enters() - enters, 1, "one batch, one enter");
    for (of, _, sent) in rig.settled.drain(..) {
        let expected = if of == key(101) { Sent::Failed } else { Sent::All };
        assert_eq!(sent, expected, "{of:?}");
    }
    let outcome = Err(libc::EFAULT);
    assert_eq!(rig.taken(), [Completion::Connected { key: key(100), outcome }]);
    for (client, _) in &clients {
        assert_eq!(read(client, 11), b"to somebody");
    }
}

#[test]
fn closing_cancels_the_receive_and_the_peer_sees_the_end() {
    for pending in [Pending::Receive, Pending::Unknown] {
        let mut rig = Setup::default().build();
        let (mut client, socket) = rig.connect();
        rig.uring.receive(socket, key(1));
        rig.exchange(Wait::No);
        rig.uring.close(socket, key(1), pending);
        rig.until("the end of the receive", |c| {
            let cause = ReceiveEnd::Cancelled;
            (*c == Completion::ReceiveEnded { key: key(1), cause }).then_some(())
        });
        rig.until("the confirmation", |c| (*c == Completion::Closed { key: key(1) }).then_some(()));
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "{pending:?}");
    }
}

#[test]
fn a_full_descriptor_table_ends_the_accept_until_a_socket_is_closed() {
    let mut rig = Setup { sockets: 4, ..Setup::default() }.build();
    let clients: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    let one_too_many = TcpStream::connect(rig.address).unwrap();
    let ended = rig.until("the end of accepting", |completion| match completion {
        Completion::AcceptEnded { listener, cause } => Some((*listener, *cause)),
        _ => None,
    });
    assert_eq!(ended, (ListenerId(0), AcceptEnd::TableFull));
    drop(one_too_many);
    rig.uring.close(clients[2].1, key(2), Pending::Nothing);
    rig.until("the confirmation", |c| (*c == Completion::Closed { key: key(2) }).then_some(()));
    rig.uring.accept(ListenerId(0));
    let (client, socket) = rig.connect();
    assert_eq!(rig.send_now(socket, key(9), b"welcome"), Sent::All);
    assert_eq!(read(&client, 7), b"welcome");
}

#[test]
fn accepting_stops_when_told() {
    let mut rig = rig();
    rig.uring.stop_accepting(ListenerId(0));
    let cause = rig.until("the end of accepting", |completion| match completion {
        Completion::AcceptEnded { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, AcceptEnd::Cancelled);
}

#[test]
fn accepted_sockets_take_no_descriptors_of_the_process() {
    let mut rig = rig();
    let clients: Vec<_> = (0..100).map(|_| rig.connect()).collect();
    // Our ends of established connections, by inode: `local_address` is the listener's.
    let ours = format!(":{:04X} ", rig.address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let accepted: HashSet<String> = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| format!("{} ", fields[1]).ends_with(&ours) && fields[3] == "01")
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    assert_eq!(accepted.len(), clients.len());
    let held = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_str().is_some_and(|target| accepted.contains(target)))
        .count();
    assert_eq!(held, 0);
}

#[test]
fn a_peer_is_named_on_both_families() {
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let mut rig = Setup { ip, ..Setup::default() }.build();
        // More than there are places for answers.
        for at in 0..300 {
            let (client, socket) = rig.connect();
            rig.uring.peer_name(ListenerId(0), socket, key(at));
            rig.uring.close(socket, key(at), Pending::Nothing);
            let (of, peer) = rig.until("the peer's name", |completion| match completion {
                Completion::PeerName { key, peer } => Some((*key, *peer)),
                _ => None,
            });
            assert_eq!((of, peer), (key(at), Some(client.local_addr().unwrap())));
        }
    }
}

/// Sleeps in the ring, but not for ever should nothing wake it.
fn sleep(rig: &mut rig::Rig) -> Duration {
    let began = Moment::now();
    rig.uring.deadline(Some(mono() + PATIENCE));
    let give_up = began + PATIENCE;
    while rig.uring.backlog() == 0 && Moment::now() < give_up {
        rig.exchange(Wait::ForOne);
    }
    began.elapsed()
}

#[test]
fn a_doorbell_from_another_ring_wakes_a_sleeping_one() {
    let directory = RingDirectory::new(2);
    let mut rig = Setup { directory: directory.clone(), ..Setup::default() }.build();
    let bell = thread::spawn(move || {
        let mut other = Setup { shard: ShardId(1), directory, ..Setup::default() }.build();
        other.uring.ring_doorbell(ShardId(0));
        // Nobody is there: rung in vain, without harm.
        other.uring.ring_doorbell(ShardId(7));
        other.exchange(Wait::No);
    });
    assert!(sleep(&mut rig) < PATIENCE);
    assert_eq!(rig.taken(), [Completion::Doorbell]);
    bell.join().unwrap();
}

#[test]
fn writing_to_the_eventfd_wakes_a_sleeping_ring_each_time() {
    let mut rig = rig();
    for _ in 0..3 {
        let wake = rig.wake.try_clone().unwrap();
        let writer = thread::spawn(move || rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap());
        assert!(sleep(&mut rig) < PATIENCE);
        assert_eq!(rig.taken(), [Completion::Doorbell]);
        writer.join().unwrap();
    }
}

/// Exchanges without sleeping until nothing is pending.
fn calm(rig: &mut rig::Rig) {
    rig.exchange(Wait::No);
    while rig.uring.has_pending() {
        rig.exchange(Wait::No);
        rig.taken();
    }
}

/// Ends a wait that nothing else ends, until it is dropped.
fn alarm(rig: &rig::Rig) -> Sender<()> {
    let (alarm, off) = channel();
    let wake = rig.wake.try_clone().unwrap();
    thread::spawn(move || {
        if off.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
        }
    });
    alarm
}

#[test]
fn the_heartbeat_ends_each_wait_until_it_is_stopped() {
    let mut rig = rig();
    let _alarm = alarm(&rig);
    rig.uring.heartbeat(Some(Duration::from_millis(2)));
    calm(&mut rig);
    let began = mono();
    for _ in 0..10 {
        if mono().since(began) < PATIENCE {
            rig.exchange(Wait::ForOne);
        }
    }
    let beats = mono().since(began);
    assert!(Duration::from_millis(15) < beats && beats < PATIENCE, "ten beats took {beats:?}");

    rig.uring.heartbeat(None);
    calm(&mut rig);
    let at = mono() + Duration::from_millis(50);
    rig.uring.deadline(Some(at));
    calm(&mut rig);
    rig.exchange(Wait::ForOne);
    assert!(mono() >= at, "nothing beats any more");

    rig.uring.heartbeat(Some(Duration::from_millis(2)));
    calm(&mut rig);
    let began = mono();
    rig.exchange(Wait::ForOne);
    assert!(mono().since(began) < PATIENCE, "it beats again");
}

#[test]
fn a_deadline_ends_the_wait_once_and_a_later_one_replaces_it() {
    let mut rig = rig();
    let _alarm = alarm(&rig);
    rig.uring.deadline(Some(mono() + Duration::from_millis(10)));
    calm(&mut rig);
    let later = mono() + Duration::from_millis(40);
    rig.uring.deadline(Some(later));
    calm(&mut rig);
    rig.exchange(Wait::ForOne);
    assert!(mono() >= later, "the earlier one was replaced");
    assert_eq!(rig.uring.deadline_at, None);

    let last = mono() + Duration::from_millis(40);
    rig.uring.deadline(Some(last));
    rig.exchange(Wait::ForOne);
    assert!(last <= mono() && mono().since(last) < PATIENCE, "the former one is spent");

    rig.uring.deadline(Some(last));
    assert!(rig.uring.has_deadline());
    rig.exchange(Wait::No);
    calm(&mut rig);
    assert!(!rig.uring.has_deadline(), "one that has passed is spent by the exchange that arms it");
    assert!(rig.taken().is_empty(), "time is not a completion");
}

#[test]
fn every_operation_of_the_data_plane_works_here() {
    super::try_operations().unwrap();
}
