//! The attributes of a test file.
//!
//! A test file is compiled twice. In the payload (`cfg(kvm_guest)`) `#[guest]` functions become rows
//! of the payload's table and everything marked `#[kvm_test]` or `#[host]` is gone; in the runner,
//! `#[guest]` functions are type-checked and tests registered.

mod guest_asm;
mod kvm_test;

use proc_macro::TokenStream;
use quote::quote;
use syn::{Ident, Item, ItemFn, ItemStatic, Visibility, parse_macro_input};

/// A guest function: `#[guest] fn guest_code(g: &mut Guest) { … }`.
#[proc_macro_attribute]
pub fn guest(options: TokenStream, item: TokenStream) -> TokenStream {
    if let Err(error) = no_options(options) {
        return error;
    }
    let function = parse_macro_input!(item as ItemFn);
    let name = &function.sig.ident;
    let in_payload = in_payload(&function.vis, name);
    quote! {
        #function
        #in_payload
        #[cfg(not(kvm_guest))]
        const _: fn(&mut ::vm::guest_runtime::Guest) = #name;

        #[cfg(kvm_guest)]
        const _: () = {
            #[used]
            #[unsafe(link_section = "guest_entries")]
            static ROW: ::guest_runtime::private::EntryRow<::guest_runtime::private::EntryFn> =
                ::guest_runtime::private::EntryRow {
                    name: concat!(module_path!(), "::", stringify!(#name)),
                    entry: #name,
                };
        };
    }
    .into()
}

/// A static that guest and host both see: `#[shared] static FLAG: AtomicU64 = AtomicU64::new(0);`.
/// The host reaches the guest's copy by `vm.shared(shared_static!(FLAG))`.
#[proc_macro_attribute]
pub fn shared(options: TokenStream, item: TokenStream) -> TokenStream {
    if let Err(error) = no_options(options) {
        return error;
    }
    let item = parse_macro_input!(item as ItemStatic);
    let name = &item.ident;
    let in_payload = in_payload(&item.vis, name);
    quote! {
        #item
        #in_payload

        #[cfg(kvm_guest)]
        const _: () = {
            #[used]
            #[unsafe(link_section = "guest_shared")]
            static ROW: ::guest_runtime::private::SharedRow = ::guest_runtime::private::SharedRow::new(
                concat!(module_path!(), "::", stringify!(#name)),
                &#name,
            );
        };
    }
    .into()
}

/// Assembled code with a name, for modes that no guest function runs in and for places where the host
/// half puts it:
///
/// ```ignore
/// guest_asm! {
///     /// What the handler does.
///     pub HANDLER, bits16:
///     "out {port}, al",
///     "rsm",
///     port = const PORT,
/// }
/// ```
///
/// `HANDLER` is a [`Blob`](../guest_runtime/asm/struct.Blob.html) in both halves. Behind `bits16:`, `bits32:`
/// or `bits64:` (of architectures with one mode too; `align(BYTES)` may follow each) each string is a line of assembly, which reports show
/// with its offset where a vCPU stands in the code, wherever that was copied to.
#[proc_macro]
pub fn guest_asm(input: TokenStream) -> TokenStream {
    let span = proc_macro::Span::call_site();
    let file = span.file().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let input = parse_macro_input!(input as guest_asm::Input);
    // Where another macro writes it, several have the same place.
    let place = format!("{file}_{}_{}_{}", span.line(), span.column(), input.name());
    guest_asm::expand(&input, &place).into()
}

/// The host half of a file, `#[host] mod host { use super::*; … }`: its tests and what only they need.
#[proc_macro_attribute]
pub fn host(options: TokenStream, item: TokenStream) -> TokenStream {
    if let Err(error) = no_options(options) {
        return error;
    }
    let item = parse_macro_input!(item as Item);
    quote! { #[cfg(not(kvm_guest))] #item }.into()
}

/// A test: `#[kvm_test(guest_code, requires(cap::IRQCHIP), irqchip)] fn rule(t: &mut OneVcpu) -> TestResult`.
///
/// Options, in any order behind the optional guest function:
/// - `guests(a, b)`: the guest functions of vCPUs 0, 1, …, for the fixture `Vcpus`;
/// - `requires(cap::X, cpu::Y, host::Z)`: what the host must have;
/// - `irqchip`, `split_irqchip`, `no_irqchip`: the VM's interrupt controller;
/// - `ram = BYTES`: the VM's RAM;
/// - `enable(KVM_CAP_X, KVM_CAP_Y = argument)`: capabilities to enable first;
/// - `features(KVM_ARM_VCPU_X)`, `no_features(KVM_ARM_VCPU_X)`: of the vCPUs;
/// - `pmu`: aarch64: vCPUs with a PMU that is ready, and its interrupt `defs::aarch64::pmu::INTID`;
/// - `vcpus = N`: vCPUs that run at a time (the weight in parallel runs);
/// - `groups("a", "b")`: groups beside the file's and the architecture's;
/// - `exclusive`: runs alone;
/// - `without_kvm`: runs alone, and the runner lets go of `/dev/kvm` meanwhile;
/// - `options = [A, B]`: the `vm::perf::TestOption`s that the test reads (`--set`);
/// - `moved`: a twin of the test, `NAME@moved`, whose VMs go on in fresh descriptors at every exit and sync
///   that the test handles;
/// - `sees(variant: "reason", …)`: variants under which the test does not run, since it observes the very
///   thing that they change;
/// - `params = [name: expression, …]`: one case each, handed to the function as its second argument.
///
/// What all tests of a file share stands in [`kvm_tests!`].
#[proc_macro_attribute]
pub fn kvm_test(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as kvm_test::Options);
    let function = parse_macro_input!(item as ItemFn);
    kvm_test::expand(options, function).unwrap_or_else(|e| e.to_compile_error()).into()
}

/// What every test of a file has beside what its attribute says: `kvm_tests! { irqchip, requires(cap::X) }`,
/// with options of [`macro@kvm_test`]. It stands once, in a file that imports the prelude.
#[proc_macro]
pub fn kvm_tests(options: TokenStream) -> TokenStream {
    kvm_test::expand_file(parse_macro_input!(options as kvm_test::FileOptions)).into()
}

/// A type of the item's name, which gives the host half the item's path in the payload.
fn in_payload(visibility: &Visibility, name: &Ident) -> proc_macro2::TokenStream {
    quote! {
        #[cfg(not(kvm_guest))]
        #[doc(hidden)]
        #[allow(non_camel_case_types, dead_code, reason = "it stands for another item")]
        #visibility enum #name {}

        #[cfg(not(kvm_guest))]
        impl ::vm::case::InPayload for #name {
            const PATH: &'static str = concat!(module_path!(), "::", stringify!(#name));
        }
    }
}

fn no_options(options: TokenStream) -> Result<(), TokenStream> {
    match options.into_iter().next() {
        None => Ok(()),
        Some(token) => {
            let error = syn::Error::new(token.span().into(), "this attribute takes no options");
            Err(error.to_compile_error().into())
        }
    }
}
