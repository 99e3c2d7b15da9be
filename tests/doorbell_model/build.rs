//! For this crate alone: the same flag for everything would build everything twice.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
