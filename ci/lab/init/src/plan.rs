//! What the init of an emulated host has to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::reserve::StoredFile;
use crate::wire::Wire;

/// One kernel module to load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Path inside the guest; empty where the kernel has no such module.
    pub path: String,
    /// Module name as the kernel prints it.
    pub name: String,
    /// `a=b c=d`.
    pub params: String,
    /// Whether the host is useless when the module does not load.
    pub needed: bool,
}

/// Everything the init has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Modules in loading order.
    pub modules: Vec<Module>,
    /// Program and its arguments.
    pub argv: Vec<String>,
    /// Environment of the program.
    pub env: Vec<(String, String)>,
    /// Serial device for results where there is no virtio port (`/dev/ttyS1`).
    pub result_device: Option<String>,
    /// Run without `/dev/kvm` too.
    pub kvm_optional: bool,
    /// Run the program on the console, for a person.
    pub interactive: bool,
    /// Get ready for a snapshot, and wait for [`Resume`] after it.
    pub snapshot: bool,
    /// Wait until this clock source is in use, or a few seconds have passed.
    pub clocksource: Option<String>,
}

impl Wire for Plan {}

/// What a host restored from a snapshot has to know and to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Time since 1970.
    pub now: Duration,
    /// The files in its reserved memory, one behind the other.
    pub files: Vec<StoredFile>,
    /// What to do.
    pub plan: Plan,
}

impl Wire for Resume {}
