//! guest-payload
fn main() {}
