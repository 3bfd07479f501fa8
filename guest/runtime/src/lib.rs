//! guest-runtime
