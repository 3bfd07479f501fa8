//! What the compiler expects every program to have, and no C library is there to give.
#![expect(unsafe_code, reason = "defines the compiler's own symbols")]
#![expect(missing_docs, reason = "their contracts are C's and the compiler's")]

use core::ffi::{c_int, c_void};

/// Never called: nothing unwinds. The prebuilt `core` names it in its unwind tables.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// Volatile accesses keep LLVM from turning these loops into calls of themselves.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dest: *mut c_void, src: *const c_void, n: usize) -> *mut c_void {
    // SAFETY: the caller keeps C's contract.
    unsafe { crate::arch::copy_forward(dest.cast(), src.cast(), n) };
    dest
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dest: *mut c_void, src: *const c_void, n: usize) -> *mut c_void {
    let (d, s) = (dest.cast::<u8>(), src.cast::<u8>());
    if (d as usize).wrapping_sub(s as usize) >= n {
        // SAFETY: a forward copy never overwrites what it has yet to read.
        unsafe { crate::arch::copy_forward(d, s, n) };
    } else {
        for i in (0..n).rev() {
            // SAFETY: the caller keeps C's contract.
            unsafe { d.add(i).write_volatile(s.add(i).read_volatile()) };
        }
    }
    dest
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dest: *mut c_void, value: c_int, n: usize) -> *mut c_void {
    // SAFETY: the caller keeps C's contract.
    unsafe { crate::arch::fill(dest.cast(), value as u8, n) };
    dest
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const c_void, b: *const c_void, n: usize) -> c_int {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    for i in 0..n {
        // SAFETY: the caller keeps C's contract.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return c_int::from(x) - c_int::from(y);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const c_void, b: *const c_void, n: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, n) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const core::ffi::c_char) -> usize {
    let mut n = 0;
    // SAFETY: the caller keeps C's contract.
    while unsafe { text.add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}
