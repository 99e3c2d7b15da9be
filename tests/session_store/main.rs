//! The session store against a real Redis: what stands in it, and what becomes of sessions when it
//! falters.

mod keys;
mod node;
mod nodes;
mod outages;
mod server;
