//! KVM's modules: loading, unloading, parameters.

pub mod module;
