//! The session store against a real Redis: what stands in it, and what becomes of sessions when it
//! falters.

#[expect(dead_code, unused_imports, reason = "these tests need Redis alone")]
#[path = "../services/mod.rs"]
mod services;

mod deaf;
mod failover;
mod keys;
mod node;
mod nodes;
mod outages;
