//! `#[kvm_test]` and `kvm_tests!`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Error, Expr, ExprLit, FnArg, Ident, ItemFn, Lit, LitInt, LitStr, Path, Result, Token, Type,
};

/// Options of a test, and whether a file can have them for all of its tests.
const OPTIONS: [(&str, bool); 18] = [
    ("requires", true),
    ("irqchip", true),
    ("split_irqchip", true),
    ("no_irqchip", false),
    ("ram", true),
    ("enable", true),
    ("features", true),
    ("no_features", true),
    ("pmu", true),
    ("groups", true),
    ("exclusive", true),
    ("without_kvm", true),
    ("options", true),
    ("sees", true),
    ("guests", false),
    ("vcpus", false),
    ("moved", false),
    ("params", false),
];

/// What stands in the parentheses of the attribute, or in the braces of `kvm_tests!`.
#[derive(Default)]
pub(crate) struct Options {
    guests: Vec<Path>,
    requires: Vec<Path>,
    irqchip: Option<Ident>,
    /// Calls of `VmConfig`'s methods.
    config: Vec<TokenStream>,
    vcpus: Option<LitInt>,
    groups: Vec<LitStr>,
    exclusive: bool,
    without_kvm: bool,
    moved: bool,
    sees: Vec<(Ident, Expr)>,
    params: Vec<(Ident, Expr)>,
    options: Option<Expr>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Self::parse_with(input, true)
    }
}

/// Options that hold for every test of a file.
pub(crate) struct FileOptions(Options);

impl Parse for FileOptions {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Options::parse_with(input, false).map(Self)
    }
}

impl Options {
    fn parse_with(input: ParseStream<'_>, of_test: bool) -> Result<Self> {
        let mut options = Self::default();
        let mut may_be_guest = of_test;
        while !input.is_empty() {
            options.option(input, of_test, may_be_guest)?;
            may_be_guest = false;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }

    fn option(&mut self, input: ParseStream<'_>, of_test: bool, may_be_guest: bool) -> Result<()> {
        let path: Path = input.parse()?;
        let name = path.get_ident().map(Ident::to_string).unwrap_or_default();
        let known =
            OPTIONS.iter().any(|(option, of_file)| *option == name && (of_test || *of_file));
        if !known {
            if may_be_guest && !input.peek(Token![=]) && !input.peek(syn::token::Paren) {
                self.guests.push(path);
                return Ok(());
            }
            let names = OPTIONS.iter().filter(|(_, of_file)| of_test || *of_file).map(|o| o.0);
            let names: Vec<&str> = names.collect();
            let message = format!("unknown option: expected one of {}", names.join(", "));
            return Err(Error::new(path.span(), message));
        }
        match name.as_str() {
            "guests" => self.guests.extend(list::<Path>(input)?),
            "requires" => self.requires.extend(list::<Path>(input)?),
            "groups" => self.groups.extend(list::<LitStr>(input)?),
            "irqchip" => self.set_irqchip("Kernel", &path)?,
            "split_irqchip" => self.set_irqchip("Split", &path)?,
            "no_irqchip" => self.set_irqchip("None", &path)?,
            "exclusive" => self.exclusive = true,
            "without_kvm" => self.without_kvm = true,
            "options" => {
                input.parse::<Token![=]>()?;
                self.options = Some(input.parse()?);
            }
            "moved" => self.moved = true,
            "sees" => {
                let sees = list::<Param>(input)?.into_iter();
                self.sees.extend(sees.map(|Param { name, value }| (name, value)));
            }
            "pmu" => self.config.push(quote!(.pmu())),
            "features" => {
                self.config.extend(list::<Path>(input)?.iter().map(|f| quote!(.feature(#f))));
            }
            "no_features" => {
                self.config.extend(list::<Path>(input)?.iter().map(|f| quote!(.no_feature(#f))));
            }
            "enable" => {
                let call = |Enable { cap, argument }| quote!(.enable(#cap, [#argument, 0, 0, 0]));
                self.config.extend(list::<Enable>(input)?.into_iter().map(call));
            }
            "ram" => {
                input.parse::<Token![=]>()?;
                let bytes: Expr = input.parse()?;
                self.config.push(quote!(.ram(#bytes)));
            }
            "vcpus" => {
                input.parse::<Token![=]>()?;
                self.vcpus = Some(input.parse()?);
            }
            _ => {
                input.parse::<Token![=]>()?;
                let content;
                syn::bracketed!(content in input);
                let params: Punctuated<Param, Token![,]> = Punctuated::parse_terminated(&content)?;
                self.params.extend(params.into_iter().map(|Param { name, value }| (name, value)));
            }
        }
        Ok(())
    }

    fn set_irqchip(&mut self, variant: &str, path: &Path) -> Result<()> {
        if self.irqchip.is_some() {
            return Err(Error::new(path.span(), "the VM has one interrupt controller"));
        }
        self.irqchip = Some(Ident::new(variant, path.span()));
        Ok(())
    }

    fn weight(&self) -> TokenStream {
        let weight = match (self.without_kvm, self.exclusive, &self.vcpus) {
            (true, ..) => quote!(AloneWithoutKvm),
            (false, true, _) => quote!(Alone),
            (false, false, Some(vcpus)) => quote!(Cpus(#vcpus)),
            (false, false, None) => quote!(Cpus(1)),
        };
        quote!(::vm::case::Weight::#weight)
    }

    /// An array of what a user can set.
    fn settable(&self) -> TokenStream {
        self.options.as_ref().map_or(quote!([]), |options| quote!(#options))
    }

    /// An array of the variants that the test sees.
    fn sees(&self) -> TokenStream {
        let sees = self.sees.iter().map(|(variant, reason)| {
            let variant = variant.to_string();
            quote!((#variant, #reason))
        });
        quote!(::vm::variant::checked([#(#sees),*]))
    }

    /// `VmConfig`'s methods, as they follow an expression of one.
    fn config(&self) -> TokenStream {
        let (irqchip, calls) = (self.irqchip.iter(), &self.config);
        quote!(#(.irqchip(::vm::Irqchip::#irqchip))* #(#calls)*)
    }
}

/// `name: value`.
struct Param {
    name: Ident,
    value: Expr,
}

impl Parse for Param {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = input.parse()?;
        input.parse::<Token![:]>()?;
        Ok(Self { name, value: input.parse()? })
    }
}

/// `KVM_CAP_X`, or `KVM_CAP_X = argument`.
struct Enable {
    cap: Path,
    argument: Expr,
}

impl Parse for Enable {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let cap = input.parse()?;
        let argument = match input.parse::<Option<Token![=]>>()? {
            Some(_) => input.parse()?,
            None => syn::parse_quote!(0),
        };
        Ok(Self { cap, argument })
    }
}

fn list<T: Parse>(input: ParseStream<'_>) -> Result<Punctuated<T, Token![,]>> {
    let content;
    syn::parenthesized!(content in input);
    Punctuated::parse_terminated(&content)
}

/// What the tests of a file share: a constant, which shadows the prelude's of the same name.
pub(crate) fn expand_file(FileOptions(options): FileOptions) -> TokenStream {
    let Options { requires, groups, .. } = &options;
    let (config, weight, settable) = (options.config(), options.weight(), options.settable());
    let sees = options.sees();
    quote! {
        #[cfg(not(kvm_guest))]
        const KVM_TESTS: ::vm::fixture::FileDefaults = {
            #[allow(unused_imports, reason = "requirements name these modules")]
            use ::vm::{cap, cpu, host};
            ::vm::fixture::FileDefaults {
                requires: &[#(#requires),*],
                groups: &[#(#groups),*],
                weight: #weight,
                options: &#settable,
                sees: &#sees,
                config: || ::vm::VmConfig::new()#config,
            }
        };
    }
}

/// The test, and one registration for each of its cases; nothing in the payload.
pub(crate) fn expand(options: Options, function: ItemFn) -> Result<TokenStream> {
    let fixture = fixture(&function)?;
    let inputs = function.sig.inputs.len();
    let wanted = if options.params.is_empty() { 1 } else { 2 };
    if inputs != wanted {
        let message = match wanted {
            1 => "a test without `params` takes one argument: its fixture",
            _ => "a test with `params` takes two arguments: its fixture and the parameter",
        };
        return Err(Error::new(function.sig.inputs.span(), message));
    }
    let params: Vec<_> = match options.params.as_slice() {
        [] => vec![None],
        params => params.iter().map(Some).collect(),
    };
    let variants: &[_] =
        if options.moved { &[Variant::Plain, Variant::Moved] } else { &[Variant::Plain] };
    let cases = params
        .iter()
        .flat_map(|param| variants.iter().map(|v| case(&options, &function, fixture, *param, *v)));
    Ok(quote! {
        #[cfg(not(kvm_guest))]
        #function
        #(#cases)*
    })
}

/// The fixture's type: `T` of the first argument `&mut T`.
fn fixture(function: &ItemFn) -> Result<&Type> {
    let message = "a test's first argument is its fixture, such as `t: &mut OneVcpu`";
    match function.sig.inputs.first() {
        Some(FnArg::Typed(argument)) => match &*argument.ty {
            Type::Reference(reference) if reference.mutability.is_some() => Ok(&reference.elem),
            other => Err(Error::new(other.span(), message)),
        },
        Some(other) => Err(Error::new(other.span(), message)),
        None => Err(Error::new(function.sig.ident.span(), message)),
    }
}

/// Under which circumstance a test runs.
#[derive(Clone, Copy)]
enum Variant {
    Plain,
    /// Its VMs go on in fresh descriptors all the time.
    Moved,
}

fn case(
    options: &Options,
    function: &ItemFn,
    fixture: &Type,
    param: Option<&(Ident, Expr)>,
    variant: Variant,
) -> TokenStream {
    let name = &function.sig.ident;
    let (mut suffix, argument) = match param {
        Some((param, value)) => (format!("::{param}"), Some(quote!(, #value))),
        None => (String::new(), None),
    };
    let (run, group) = match variant {
        Variant::Plain => (quote!(body), None),
        Variant::Moved => {
            suffix.push_str("@moved");
            (quote!(|| ::vm::variant::moved(body)), Some("moved"))
        }
    };
    let Options { guests, requires, groups, .. } = options;
    let groups = groups.iter().map(LitStr::value).chain(group.map(str::to_owned));
    let (config, weight, settable) = (options.config(), options.weight(), options.settable());
    let sees = options.sees();
    let doc = doc(function);
    quote! {
        #[cfg(not(kvm_guest))]
        const _: () = {
            #[allow(unused_imports, reason = "requirements name these modules")]
            use ::vm::{cap, cpu, host};

            const GUESTS: &[::vm::case::GuestFn] = &[#(::vm::guest_fn!(#guests)),*];
            const REQUIRES: &[::vm::requirement::Requirement] = &[#(#requires),*];
            const GROUPS: &[&str] = &[#(#groups),*];
            const TEST_OPTIONS: &[::vm::perf::TestOption] = &#settable;
            const SEES: &[::vm::case::Sees] = &#sees;

            fn body() -> ::vm::failure::TestResult {
                let setup = ::vm::fixture::Setup {
                    guests: GUESTS,
                    config: (KVM_TESTS.config)()#config,
                };
                let mut fixture = <#fixture as ::vm::fixture::Fixture>::new(setup)?;
                #name(&mut fixture #argument)
            }

            #[::vm::linkme::distributed_slice(::vm::TESTS)]
            #[linkme(crate = ::vm::linkme)]
            static CASE: ::vm::case::TestCase = ::vm::case::TestCase {
                path: concat!(module_path!(), "::", stringify!(#name), #suffix),
                file: file!(),
                line: line!(),
                doc: #doc,
                requires: &::vm::fixture::joined::<_, { KVM_TESTS.requires.len() + REQUIRES.len() }>(
                    ::vm::requirement::Requirement::NONE,
                    KVM_TESTS.requires,
                    REQUIRES,
                ),
                groups: &::vm::fixture::joined::<_, { KVM_TESTS.groups.len() + GROUPS.len() }>(
                    "",
                    KVM_TESTS.groups,
                    GROUPS,
                ),
                weight: #weight.or(KVM_TESTS.weight),
                options: &::vm::fixture::joined::<_, { KVM_TESTS.options.len() + TEST_OPTIONS.len() }>(
                    ::vm::perf::TestOption::NONE,
                    KVM_TESTS.options,
                    TEST_OPTIONS,
                ),
                sees: &::vm::fixture::joined::<_, { KVM_TESTS.sees.len() + SEES.len() }>(
                    ("", ""),
                    KVM_TESTS.sees,
                    SEES,
                ),
                run: #run,
            };
        };
    }
}

/// The doc comment, one line a line.
fn doc(function: &ItemFn) -> String {
    let lines = function.attrs.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(options: &str, function: &str) -> Error {
        let refused = syn::parse_str::<Options>(options)
            .and_then(|options| expand(options, syn::parse_str(function)?));
        match refused {
            Ok(tokens) => panic!("taken: {tokens}"),
            Err(error) => error,
        }
    }

    const GOOD: &str = "fn rule(t: &mut OneVcpu) -> TestResult { Ok(()) }";

    #[test]
    fn every_option_is_taken() {
        let options = "guest_code, requires(cap::IRQCHIP, cpu::X2APIC), irqchip, vcpus = 2, \
                       ram = 64 << 20, enable(KVM_CAP_A, KVM_CAP_B = 7), \
                       groups(\"smoke\", \"irq\"), options = [ROUNDS, BYTES],";
        let tokens = expand(syn::parse_str(options).unwrap(), syn::parse_str(GOOD).unwrap());
        let text = tokens.unwrap().to_string();
        for part in [
            "guest_fn ! (guest_code)",
            "cap :: IRQCHIP , cpu :: X2APIC",
            "irqchip (:: vm :: Irqchip :: Kernel)",
            "ram (64 << 20)",
            "enable (KVM_CAP_A , [0 , 0 , 0 , 0])",
            "enable (KVM_CAP_B , [7 , 0 , 0 , 0])",
            "\"smoke\" , \"irq\"",
            "Weight :: Cpus (2)",
            "& [ROUNDS , BYTES]",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn the_weight_is_the_most_that_is_asked_for() {
        for (options, weight) in [
            ("code", "Weight :: Cpus (1)"),
            ("code, vcpus = 2, exclusive", "Weight :: Alone ."),
            ("code, exclusive, without_kvm", "Weight :: AloneWithoutKvm ."),
        ] {
            let tokens = expand(syn::parse_str(options).unwrap(), syn::parse_str(GOOD).unwrap());
            let text = tokens.unwrap().to_string();
            assert!(text.contains(weight), "{weight} is not in {text}");
        }
    }

    #[test]
    fn each_parameter_is_a_case() {
        let options = syn::parse_str("code, params = [byte: 1, word: 2]").unwrap();
        let function = "fn rule(t: &mut OneVcpu, size: u8) -> TestResult { Ok(()) }";
        let text = expand(options, syn::parse_str(function).unwrap()).unwrap().to_string();
        assert_eq!(text.matches("distributed_slice").count(), 2);
        assert!(text.contains("\"::byte\"") && text.contains("\"::word\""), "{text}");
    }

    #[test]
    fn a_moved_test_has_a_twin_for_each_parameter() {
        let options = syn::parse_str("code, moved, params = [byte: 1, word: 2]").unwrap();
        let function = "fn rule(t: &mut OneVcpu, size: u8) -> TestResult { Ok(()) }";
        let text = expand(options, syn::parse_str(function).unwrap()).unwrap().to_string();
        for id in ["\"::byte\"", "\"::byte@moved\"", "\"::word\"", "\"::word@moved\""] {
            assert!(text.contains(id), "{id} is not in {text}");
        }
        assert_eq!(text.matches("variant :: moved (body)").count(), 2);
    }

    #[test]
    fn a_file_gives_its_tests_requirements_and_no_guests() {
        let options = syn::parse_str("requires(cap::ARM_PMU_V3), irqchip, pmu").unwrap();
        let text = expand_file(options).to_string();
        assert!(text.contains("const KVM_TESTS") && text.contains("cap :: ARM_PMU_V3"), "{text}");
        for refused in ["guests(a, b)", "vcpus = 2", "guest_code"] {
            let error = syn::parse_str::<FileOptions>(refused).err().expect(refused).to_string();
            assert!(error.starts_with("unknown option: expected one of requires"), "{error}");
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (options, function, want) in [
            (
                "code, require(cap::IRQCHIP)",
                GOOD,
                "unknown option: expected one of requires, irqchip",
            ),
            ("irqchip, split_irqchip", GOOD, "the VM has one interrupt controller"),
            ("code, params = [a: 1]", GOOD, "a test with `params` takes two arguments"),
            (
                "code",
                "fn rule(t: &mut OneVcpu, n: u8) -> TestResult {}",
                "a test without `params` takes one",
            ),
            ("code", "fn rule() -> TestResult {}", "a test's first argument is its fixture"),
            (
                "code",
                "fn rule(t: OneVcpu) -> TestResult {}",
                "a test's first argument is its fixture",
            ),
        ] {
            let error = refuse(options, function).to_string();
            assert!(error.starts_with(want), "{options}: {error}");
        }
    }

    #[test]
    fn errors_point_at_the_wrong_word() {
        let error = refuse("code,\n requires(cap::IRQCHIP),\n exclusiv", GOOD);
        let start = error.span().start();
        assert_eq!((start.line, start.column), (3, 1));
    }
}
