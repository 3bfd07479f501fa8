//! The init of an emulated host: mounts, loads modules, runs one program, reports how it ended.

mod clock;
mod heartbeat;
mod host;
mod ports;
mod program;
mod snapshot;

use anyhow::Context as _;
use lab_init::{PLAN_PATH, Plan, Report, Wire as _};
use nix::sys::reboot::{RebootMode, reboot};

use crate::snapshot::Prepared;

fn main() {
    if let Err(error) = run() {
        eprintln!("lab-init: {error:#}");
        if let Ok(mut results) = ports::open_results(None) {
            let _ = results.send(&[Report::Failed(format!("{error:#}"))]);
        }
    }
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        std::thread::park();
    }
}

fn run() -> anyhow::Result<()> {
    host::mount_all()?;
    let plan = std::fs::read_to_string(PLAN_PATH).context(PLAN_PATH)?;
    let mut plan = Plan::decode(&plan).context(PLAN_PATH)?;
    let trouble = host::load_modules(&plan.modules);
    host::switch_on_channel_devices();
    let mut results = ports::open_results(plan.result_device.as_deref())?;
    let errors = ports::open_stderr();
    if let Some(source) = &plan.clocksource {
        host::wait_for_clocksource(source);
    }
    let mut facts = None;
    if plan.snapshot {
        let prepared = Prepared::new()?;
        facts = Some(host::facts());
        results.send(&[Report::Ready])?;
        plan = prepared.wait(results.file())?;
    }
    let mut reports =
        vec![Report::Booted { uptime_ms: clock::uptime_ms(), release: host::release() }];
    let facts = match facts {
        Some(facts) => facts,
        None => {
            results.send(&std::mem::take(&mut reports))?;
            host::facts()
        }
    };
    reports.extend(facts.into_iter().map(|(name, value)| Report::Fact { name, value }));
    if !plan.kvm_optional
        && let Some(why) = host::why_no_kvm(&trouble)
    {
        reports.push(Report::NoKvm(why));
        results.send(&reports)?;
        return Ok(());
    }

    reports.push(Report::Started);
    results.send(&reports)?;
    let end = program::run(&plan, &mut results, errors)?;
    results.send(&[end])?;
    Ok(())
}
