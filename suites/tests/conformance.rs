//! `cargo test`.
fn main() {}
