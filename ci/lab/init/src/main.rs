//! The init of an emulated host: mounts, loads modules, runs one program, reports how it ended.

mod clock;
mod host;
mod parking;
mod ports;
mod program;

use anyhow::Context as _;
use lab_init::{PLAN_PATH, Plan, Report};
use nix::sys::reboot::{RebootMode, reboot};

use crate::parking::Parking;

fn main() {
    if let Err(error) = run() {
        eprintln!("lab-init: {error:#}");
        if let Ok(mut port) = ports::open_results(None) {
            let _ = ports::send(&mut port, &Report::Failed(format!("{error:#}")));
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
    let mut plan = Plan::decode(&plan)?;
    let trouble = host::load_modules(&plan.modules);
    host::switch_on_channel_devices();
    let mut results = ports::open_results(plan.result_device.as_deref())?;
    let errors = ports::open_stderr();
    if let Some(source) = &plan.clocksource {
        host::wait_for_clocksource(source);
    }
    let mut facts = None;
    if plan.park {
        let parking = Parking::prepare()?;
        facts = Some(host::facts());
        ports::send(&mut results, &Report::Parked)?;
        plan = parking.wait(&mut results)?;
    }
    let mut told = vec![Report::Booted { uptime_ms: clock::uptime_ms(), release: host::release() }];
    let facts = match facts {
        Some(facts) => facts,
        None => {
            ports::send_all(&mut results, &std::mem::take(&mut told))?;
            host::facts()
        }
    };
    told.extend(facts.into_iter().map(|(name, value)| Report::Fact { name, value }));
    if !plan.kvm_optional
        && let Some(why) = host::why_no_kvm(&trouble)
    {
        told.push(Report::NoKvm(why));
        ports::send_all(&mut results, &told)?;
        return Ok(());
    }

    told.push(Report::Started);
    ports::send_all(&mut results, &told)?;
    let end = program::run(&plan, &mut results, errors)?;
    ports::send(&mut results, &end)?;
    Ok(())
}
