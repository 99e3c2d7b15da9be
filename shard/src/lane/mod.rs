//! The rings between cores and their typed messages.
//!
//! Every ordered pair of shards has one bounded single-producer single-consumer ring for requests
//! ([`Crossing`]) and one for the answers to them ([`Answer`]); each shard has the like with the
//! control core ([`ToControl`], [`ToShard`]). Nothing here waits: a full ring refuses, and the
//! caller counts it and answers its client.
//!
//! * **Answers are never refused.** A request is taken only while there is room for the answer to
//!   every request that may still be answered.
//! * **The index is the return.** A borrowed frame stays in its sender's receive buffer until the
//!   receiver's index has passed the slot that named it ([`LaneReceiver::release`]); then
//!   [`LaneSender::reclaim`] yields the buffer. There is no lane for returns.
//! * **A sleeper is woken once.** See [`doorbell`] for the order of flag, ring and doorbell.
//!
//! What the messages mean is the engine's business.

mod borrowed;
mod control;
mod crossing;
pub mod doorbell;
#[cfg(feature = "runtime")]
mod eventfd;
mod lending;
mod mesh;
mod message;
mod places;
mod receiver;
mod sender;

pub use borrowed::{BorrowedFrame, Loan};
pub use control::{ABROAD_SHARE, ControlLanes, ControlSide};
pub use crossing::{Acknowledge, Answer, Arrival, Broadcast, Crossing, Deliver, Frame, Payload};
#[cfg(feature = "runtime")]
pub use eventfd::EventBell;
pub use lending::{Lending, Returned};
pub use mesh::{Mesh, MeshShape, Park, ShardLanes, Wake, mesh};
pub use message::{
    Abroad, AnswerFromAbroad, Claim, ClaimRefusal, Content, Credential, Delivery, DrainPhase, End,
    FromAbroad, Granting, Resumed, Rpc, RpcEnded, RpcOutcome, SessionDescription, SessionEnded,
    Span, ToControl, ToShard, UpgradeRefused, WayBack,
};
pub use receiver::LaneReceiver;
pub use sender::{LaneSender, Refusal, Refused, lane};

#[cfg(test)]
mod tests;
