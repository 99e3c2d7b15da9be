//! For this crate alone: the same flag for everything would build everything twice.

#![expect(clippy::print_stdout, reason = "it is how a build script speaks")]

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
