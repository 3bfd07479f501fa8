//! The run loop: messages from the guest, and exits that a test waits for.

use guest_protocol::{DOORBELL_BROKEN, L1, MAGIC, NR_ARGS, Verb, trap};
use zerocopy::FromBytes;

use super::context::Context;
use super::exit::{Exit, ExitMatch};
use super::vcpu::Vcpu;
use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::{arch, record};

/// A valid message from a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What the guest wants.
    pub verb: Verb,
    /// Its arguments.
    pub args: [u64; NR_ARGS],
    /// Its texts.
    pub texts: [String; 3],
}

impl Message {
    /// Decodes a message of a context at `level` on vCPU `vcpu`.
    ///
    /// # Errors
    ///
    /// Garbage, with the bytes that show it.
    pub fn decode(bytes: &[u8], vcpu: u32, level: u32) -> Result<Self, String> {
        let raw = guest_protocol::Message::ref_from_bytes(bytes)
            .map_err(|_| format!("{} bytes are not a message", bytes.len()))?;
        let head = || format!("first bytes {:02x?}", &bytes[..16]);
        if raw.magic != MAGIC {
            return Err(format!("bad magic {:#010x}, {}", raw.magic, head()));
        }
        let verb = Verb::try_from(raw.verb).map_err(|v| format!("unknown verb {v}, {}", head()))?;
        if raw.vcpu != vcpu {
            return Err(format!("message of vCPU {} from vCPU {vcpu}, {}", raw.vcpu, head()));
        }
        if raw.level != level {
            return Err(format!("message of level {} from level {level}, {}", raw.level, head()));
        }
        if verb == Verb::Done && level != L1 {
            return Err(format!("end of the guest function at level {level}, {}", head()));
        }
        let mut texts = [const { String::new() }; 3];
        let mut start = 0;
        for (text, len) in texts.iter_mut().zip(raw.text_len) {
            let end = start + usize::from(len);
            let bytes = raw
                .text
                .get(start..end)
                .ok_or_else(|| format!("text of {len} bytes at {start}, {}", head()))?;
            *text = String::from_utf8_lossy(bytes).into_owned();
            start = end;
        }
        Ok(Self { verb, args: raw.args, texts })
    }
}

/// A vCPU that stopped at an exit which the test waited for.
#[derive(Debug)]
pub struct Stop<'a> {
    vcpu: &'a mut Vcpu,
    exit: Exit,
}

impl Stop<'_> {
    /// The exit.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The data of an I/O or MMIO exit.
    pub fn data(&mut self) -> &[u8] {
        self.vcpu.exit_data(&self.exit)
    }

    /// Answers an I/O or MMIO read.
    ///
    /// # Panics
    ///
    /// `data` is not as long as the access.
    pub fn set_data(&mut self, data: &[u8]) {
        self.vcpu.exit_data(&self.exit).copy_from_slice(data);
    }

    /// Answers [`Exit::Rdmsr`]: a value, or `None` for #GP.
    pub fn complete_rdmsr(&mut self, value: Option<u64>) {
        self.complete_rdmsr_with(value.unwrap_or(0), value.is_none().into());
    }

    /// Answers [`Exit::Rdmsr`] with raw `data` and `error`.
    #[expect(unsafe_code, reason = "writes the union member that the exit selects")]
    pub fn complete_rdmsr_with(&mut self, data: u64, error: u8) {
        assert!(matches!(self.exit, Exit::Rdmsr { .. }), "not an RDMSR exit: {:?}", self.exit);
        // SAFETY: the exit selects this member.
        let msr = unsafe { &mut self.vcpu.kvm_run().__bindgen_anon_1.msr };
        msr.data = data;
        msr.error = error;
    }

    /// Answers [`Exit::RiscvSbi`]: what the guest gets in a0 and a1.
    pub fn complete_sbi(&mut self, error: i64, value: u64) {
        assert!(matches!(self.exit, Exit::RiscvSbi { .. }), "not an SBI exit: {:?}", self.exit);
        self.vcpu.kvm_run().__bindgen_anon_1.riscv_sbi.ret = [error as u64, value];
    }

    /// Answers [`Exit::Wrmsr`]: taken, or #GP.
    pub fn complete_wrmsr(&mut self, taken: bool) {
        self.complete_wrmsr_with((!taken).into());
    }

    /// Answers [`Exit::Wrmsr`] with a raw `error`.
    pub fn complete_wrmsr_with(&mut self, error: u8) {
        assert!(matches!(self.exit, Exit::Wrmsr { .. }), "not a WRMSR exit: {:?}", self.exit);
        self.vcpu.kvm_run().__bindgen_anon_1.msr.error = error;
    }

    /// Answers [`Exit::Hypercall`]: what the guest gets in RAX. Returns the exit's flags.
    #[expect(unsafe_code, reason = "uses the union member that the exit selects")]
    pub fn complete_hypercall(&mut self, result: u64) -> u64 {
        assert!(matches!(self.exit, Exit::Hypercall { .. }), "not a hypercall: {:?}", self.exit);
        // SAFETY: the exit selects this member; its flags are plain bits.
        unsafe {
            let hypercall = &mut self.vcpu.kvm_run().__bindgen_anon_1.hypercall;
            hypercall.ret = result;
            hypercall.__bindgen_anon_1.flags
        }
    }
}

/// What [`Vcpu::run_until_next`] came to.
#[derive(Debug)]
pub enum Next<'a> {
    /// An exit that is not a message.
    Exit(Stop<'a>),
    /// `Guest::sync`, with its stage in front of its arguments.
    Sync([u64; NR_ARGS]),
    /// The guest function has returned.
    Done,
}

/// What one step of the run loop came to.
enum Step {
    Exit(Exit),
    Sync([u64; NR_ARGS]),
    Done,
}

impl Vcpu {
    /// Runs until the guest function returns.
    ///
    /// # Errors
    ///
    /// Any exit to userspace before that, and everything that ends a test.
    pub fn run_until_done(&mut self) -> TestResult {
        match self.step()? {
            Step::Done => Ok(()),
            Step::Sync(args) => {
                Err(self.unexpected(&format!("sync({})", args[0]), "the end of the guest function"))
            }
            Step::Exit(exit) => Err(self.unexpected_exit(&exit, "the end of the guest function")),
        }
    }

    /// Runs until `Guest::sync(stage, …)`. Returns the arguments behind the stage.
    ///
    /// # Errors
    ///
    /// Any other exit or stage.
    pub fn run_until_sync(&mut self, stage: u64) -> TestResult<[u64; NR_ARGS - 1]> {
        let want = format!("sync({stage})");
        match self.step()? {
            Step::Sync(args) if args[0] == stage => {
                Ok(args[1..].try_into().unwrap_or([0; NR_ARGS - 1]))
            }
            Step::Sync(args) => Err(self.unexpected(&format!("sync({})", args[0]), &want)),
            Step::Done => Err(self.unexpected("the end of the guest function", &want)),
            Step::Exit(exit) => Err(self.unexpected_exit(&exit, &want)),
        }
    }

    /// Runs until an exit that `want` matches.
    ///
    /// # Errors
    ///
    /// Any other exit, a sync, or the end of the guest function.
    pub fn run_until(&mut self, want: impl Into<ExitMatch>) -> TestResult<Stop<'_>> {
        let want = want.into();
        match self.step()? {
            Step::Exit(exit) if (want.matches)(&exit) => Ok(Stop { vcpu: self, exit }),
            Step::Exit(exit) => Err(self.unexpected_exit(&exit, &want.what)),
            Step::Sync(args) => Err(self.unexpected(&format!("sync({})", args[0]), &want.what)),
            Step::Done => Err(self.unexpected("the end of the guest function", &want.what)),
        }
    }

    /// Runs until any exit that is not a message; `None` when the guest function has returned.
    ///
    /// # Errors
    ///
    /// A sync, and everything that ends a test.
    pub fn run_until_exit(&mut self) -> TestResult<Option<Stop<'_>>> {
        match self.step()? {
            Step::Exit(exit) => Ok(Some(Stop { vcpu: self, exit })),
            Step::Done => Ok(None),
            Step::Sync(args) => Err(self.unexpected(&format!("sync({})", args[0]), "an exit")),
        }
    }

    /// Runs until an exit, a sync or the end, whichever comes first: for tests that name the one
    /// they want in a check.
    ///
    /// # Errors
    ///
    /// Everything that ends a test.
    pub fn run_until_next(&mut self) -> TestResult<Next<'_>> {
        Ok(match self.step()? {
            Step::Exit(exit) => Next::Exit(Stop { vcpu: self, exit }),
            Step::Sync(args) => Next::Sync(args),
            Step::Done => Next::Done,
        })
    }

    /// Answers the last sync: what `Guest::sync` returns.
    ///
    /// # Panics
    ///
    /// More than [`NR_ARGS`] - 1 values.
    pub fn answer(&mut self, values: &[u64]) {
        arch::write_answer(self, values);
    }

    /// Runs, takes messages in, and stops at what they do not cover.
    fn step(&mut self) -> TestResult<Step> {
        let exit = self.before_step()?;
        let step = self.step_from(exit)?;
        self.after_step(matches!(step, Step::Exit(_)))?;
        Ok(step)
    }

    /// The same from `exit` on, where one has come already.
    fn step_from(&mut self, mut exit: Option<Exit>) -> TestResult<Step> {
        loop {
            let exit = exit.take().map_or_else(|| self.run_once(), Ok)?;
            let Some(gpa) = arch::doorbell(self, &exit) else {
                return Ok(Step::Exit(exit));
            };
            let message = self.message(gpa)?;
            if let Some(step) = self.take(message)? {
                return Ok(step);
            }
        }
    }

    /// Reads and checks the message at `gpa`.
    fn message(&mut self, gpa: u32) -> TestResult<Message> {
        if gpa == DOORBELL_BROKEN {
            let text = "the guest runtime does not know this start info: payload and harness are of different builds";
            return Err(Failure::Error(self.describe(text)));
        }
        self.sender =
            Context::of_message(&self.ram, self.index, gpa.into()).map_err(|e| self.garbage(&e))?;
        let mut page = [0; size_of::<guest_protocol::Message>()];
        self.ram
            .read(gpa.into(), &mut page)
            .ok_or_else(|| Failure::Error("message outside RAM".into()))?;
        Message::decode(&page, self.index, self.sender.level).map_err(|e| self.garbage(&e))
    }

    fn garbage(&mut self, what: &str) -> Failure {
        Failure::Error(self.describe(&format!("garbage from the guest: {what}")))
    }

    fn take(&mut self, message: Message) -> TestResult<Option<Step>> {
        let Message { verb, args, texts: [first, second, _] } = message;
        match verb {
            Verb::Log => {
                record::log(&first);
                self.last_log = Some(first);
            }
            Verb::Check => record::check(&first, args[0] == 1, &second),
            Verb::Metric => record::metric(&first, &second, args[0] as f64),
            Verb::Sync => return Ok(Some(Step::Sync(args))),
            Verb::Done => return Ok(Some(Step::Done)),
            Verb::Skip => return Err(Failure::Skip(first)),
            Verb::Abort => {
                let [line, pc, sp, fp] = [args[0], args[1], args[2], args[3]];
                let backtrace = Payload::get()?.backtrace(&self.ram, pc, fp);
                return Err(Failure::Fail(format!(
                    "guest panicked at {second}:{line}: {first}\n{}, stack pointer {sp:#x}{backtrace}",
                    self.sender
                )));
            }
            Verb::Trap => {
                let backtrace =
                    Payload::get()?.backtrace(&self.ram, args[trap::PC], args[trap::FP]);
                return Err(Failure::Fail(format!(
                    "unexpected trap in the guest: {}{backtrace}",
                    arch::describe_trap(&self.sender, &args)
                )));
            }
        }
        Ok(None)
    }

    fn unexpected_exit(&mut self, exit: &Exit, want: &str) -> Failure {
        self.unexpected(&format!("{exit:x?}"), want)
    }

    fn unexpected(&mut self, got: &str, want: &str) -> Failure {
        Failure::Fail(self.describe(&format!("{got} instead of {want}")))
    }
}
