//! `#[guest]` and `#[kvm_test]`.
