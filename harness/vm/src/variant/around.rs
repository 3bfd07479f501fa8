//! What variants do around a KVM_RUN.

use super::{Set, holds, hopping, interrupted};

/// From before a KVM_RUN until behind it.
#[derive(Debug, Default)]
pub(crate) struct Around {
    hop: Option<hopping::Hop>,
    alarm: Option<interrupted::Alarm>,
}

impl Around {
    /// Before the `tries`-th KVM_RUN, from 0, that a signal of ours may end.
    pub fn begin(tries: u32) -> Option<Self> {
        holds(Set::AROUND)
            .then(|| Self { hop: hopping::Hop::begin(), alarm: interrupted::Alarm::begin(tries) })
    }

    /// Behind it: whether nothing but a signal of ours ended it.
    pub fn end(self, errno: i32) -> bool {
        drop(self.hop);
        self.alarm.is_some_and(|alarm| alarm.end(errno))
    }
}
