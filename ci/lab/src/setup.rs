//! Installing what the lab needs.
