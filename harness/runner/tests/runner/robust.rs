//! A host that misbehaves: a clock that jumps.

use std::time::Instant;

use crate::door::{Door, Named, text};
use crate::runs::business;

pub const TESTS: &[Named] = &[
    ("robust::a_jumping_clock_moves_no_deadline", clock),
    ("robust::a_wait_for_a_cpu_moves_the_deadline", crowd),
];

/// In front of the C library's: with `FAKE_CLOCK`, the wall clock leaps at every look.
#[expect(unsafe_code, reason = "stands in for a function of the C library")]
mod jumping_clock {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static LOOKS: AtomicI64 = AtomicI64::new(0);
    static JUMPS: OnceLock<bool> = OnceLock::new();

    // SAFETY: the signature is the C library's, and the time that is asked for is given.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(id: libc::clockid_t, time: *mut libc::timespec) -> i32 {
        // SAFETY: the caller's pointer is passed on to the kernel, which checks it.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, id, time) } as i32;
        let jumps = || *JUMPS.get_or_init(|| std::env::var_os("FAKE_CLOCK").is_some());
        if result == 0 && id == libc::CLOCK_REALTIME && jumps() {
            let sign = if LOOKS.fetch_add(1, Ordering::Relaxed) % 2 == 0 { 1 } else { -1 };
            // SAFETY: the kernel has just written there.
            unsafe { (*time).tv_sec += sign * 100_000_000 };
        }
        result
    }
}

/// A test that shares a CPU with another process takes twice its CPU time, and is not late.
fn crowd() {
    const TRIES: u32 = 10;
    let door = Door::new();
    let other = "taskset -c 0 sh -c 'while :; do :; done' & other=$!; trap 'kill $other' EXIT; ";
    let run = "( exec taskset -c 0 \"$0\" --timeout 0.35 --timeout-scale 1 busy::computes )";
    let in_time = || {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("{other}{run}")]).arg(std::env::current_exe().unwrap());
        command.env("FAKE_DOOR", "cli").current_dir(door.folder.path());
        command.output().unwrap().status.success()
    };
    // Where many more share the CPU, that is too little of it.
    assert!((0..TRIES).any(|_| in_time()) || business() > 3.0);
}

fn clock() {
    let door = Door::new().with("FAKE_CLOCK", 1);
    let begin = Instant::now();
    let output =
        door.command("cli", &["-v", "--timeout", "0.5", "pass", "told_to_stop"]).output().unwrap();
    let told = text(&output.stdout);
    assert!(told.contains("PASS ends::pass (2 checks, "), "{told}");
    assert!(told.contains("TIMEOUT ends::told_to_stop: guest at rip 0x1234"), "{told}");
    // It did jump: the run's start is years away from now.
    let (_, lines) = door.json(&["pass"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(lines[0]["started"].as_u64().unwrap().abs_diff(now) > 90_000_000);
    assert!((400..3000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
}
