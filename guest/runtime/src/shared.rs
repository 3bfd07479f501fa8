//! Statics that guest and host halves both see.

/// Types that may be written on one side while the other reads.
///
/// # Safety
///
/// Every bit pattern must be valid, and shared access must be sound (atomics, and arrays of them).
#[expect(unsafe_code, reason = "the trait is a promise about memory layout")]
pub unsafe trait Shared: Sync + 'static {}

macro_rules! shared {
    ($($atomic:ident),*) => {$(
        // SAFETY: an atomic integer takes every bit pattern.
        #[expect(unsafe_code, reason = "atomics keep the promise")]
        unsafe impl Shared for core::sync::atomic::$atomic {}
    )*};
}
shared!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicI32, AtomicI64);

// SAFETY: an array of such values is such a value.
#[expect(unsafe_code, reason = "arrays of atomics keep the promise")]
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// A page-aligned value, for memory that is mapped, logged or given to KVM by the page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct PageAligned<T>(pub T);

// SAFETY: alignment changes neither validity nor sharing.
#[expect(unsafe_code, reason = "alignment keeps the promise")]
unsafe impl<T: Shared> Shared for PageAligned<T> {}

impl<T> core::ops::Deref for PageAligned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// One row of the payload's table of shared statics (section `guest_shared`).
#[derive(Debug)]
#[repr(C)]
pub struct SharedRow {
    name: &'static str,
    address: *const (),
    size: usize,
}

// SAFETY: the row is read-only data; nothing is reached through the address.
#[expect(unsafe_code, reason = "a raw address in a static")]
unsafe impl Sync for SharedRow {}

impl SharedRow {
    /// The row of `value`.
    pub const fn new<T: Shared>(name: &'static str, value: &'static T) -> Self {
        Self { name, address: core::ptr::from_ref(value).cast(), size: size_of::<T>() }
    }
}
