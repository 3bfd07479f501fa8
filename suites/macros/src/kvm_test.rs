//! `#[kvm_test]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Error, Expr, ExprLit, FnArg, Ident, ItemFn, Lit, LitInt, LitStr, Path, Result, Token, Type,
};

const OPTIONS: [&str; 7] =
    ["requires", "irqchip", "split_irqchip", "vcpus", "groups", "exclusive", "params"];

/// What stands in the attribute's parentheses.
#[derive(Default)]
pub(crate) struct Options {
    guest: Option<Path>,
    requires: Vec<Path>,
    irqchip: Option<Ident>,
    vcpus: Option<LitInt>,
    groups: Vec<LitStr>,
    exclusive: bool,
    params: Vec<(Ident, Expr)>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        let mut first = true;
        while !input.is_empty() {
            options.option(input, first)?;
            first = false;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

impl Options {
    fn option(&mut self, input: ParseStream<'_>, first: bool) -> Result<()> {
        let path: Path = input.parse()?;
        let name = path.get_ident().map(Ident::to_string).unwrap_or_default();
        match name.as_str() {
            "requires" => self.requires.extend(list::<Path>(input)?),
            "groups" => self.groups.extend(list::<LitStr>(input)?),
            "irqchip" | "split_irqchip" => {
                if self.irqchip.is_some() {
                    return Err(Error::new(path.span(), "the VM has one interrupt controller"));
                }
                let variant = if name == "irqchip" { "Kernel" } else { "Split" };
                self.irqchip = Some(Ident::new(variant, path.span()));
            }
            "exclusive" => self.exclusive = true,
            "vcpus" => {
                input.parse::<Token![=]>()?;
                self.vcpus = Some(input.parse()?);
            }
            "params" => {
                input.parse::<Token![=]>()?;
                let content;
                syn::bracketed!(content in input);
                let parse = |p: ParseStream<'_>| {
                    let name: Ident = p.parse()?;
                    p.parse::<Token![:]>()?;
                    Ok((name, p.parse::<Expr>()?))
                };
                self.params
                    .extend(Punctuated::<_, Token![,]>::parse_terminated_with_fn(&content, parse)?);
            }
            _ if first && !input.peek(Token![=]) && !input.peek(syn::token::Paren) => {
                self.guest = Some(path);
            }
            _ => {
                let message = format!("unknown option: expected one of {}", OPTIONS.join(", "));
                return Err(Error::new(path.span(), message));
            }
        }
        Ok(())
    }
}

/// `Punctuated::parse_terminated_with`, with a closure.
trait ParseWith<T>: Sized {
    fn parse_terminated_with_fn(
        input: ParseStream<'_>,
        parser: impl Fn(ParseStream<'_>) -> Result<T>,
    ) -> Result<Vec<T>>;
}

impl<T> ParseWith<T> for Punctuated<T, Token![,]> {
    fn parse_terminated_with_fn(
        input: ParseStream<'_>,
        parser: impl Fn(ParseStream<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !input.is_empty() {
            items.push(parser(input)?);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(items)
    }
}

fn list<T: Parse>(input: ParseStream<'_>) -> Result<Punctuated<T, Token![,]>> {
    let content;
    syn::parenthesized!(content in input);
    Punctuated::parse_terminated(&content)
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
    let cases = if options.params.is_empty() {
        vec![case(&options, &function, fixture, None)]
    } else {
        options.params.iter().map(|param| case(&options, &function, fixture, Some(param))).collect()
    };
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

fn case(
    options: &Options,
    function: &ItemFn,
    fixture: &Type,
    param: Option<&(Ident, Expr)>,
) -> TokenStream {
    let name = &function.sig.ident;
    let (suffix, argument) = match param {
        Some((param, value)) => (format!("::{param}"), Some(quote!(, #value))),
        None => (String::new(), None),
    };
    let guest = match &options.guest {
        Some(guest) => quote!(Some(::vm::guest_fn!(#guest))),
        None => quote!(None),
    };
    let irqchip = options.irqchip.clone().unwrap_or_else(|| format_ident!("None"));
    let vcpus = options.vcpus.as_ref().map_or(quote!(1), |n| quote!(#n));
    let (requires, groups, exclusive) = (&options.requires, &options.groups, options.exclusive);
    let doc = doc(function);
    quote! {
        #[cfg(not(kvm_guest))]
        const _: () = {
            #[allow(unused_imports, reason = "requirements name these modules")]
            use ::vm::{cap, cpu, host};

            fn run() -> ::vm::failure::TestResult {
                let setup = ::vm::fixture::Setup {
                    guest: #guest,
                    config: ::vm::VmConfig::new().irqchip(::vm::Irqchip::#irqchip),
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
                requires: &[#(#requires),*],
                groups: &[#(#groups),*],
                exclusive: #exclusive,
                vcpus: #vcpus,
                run,
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
                       groups(\"smoke\", \"irq\"), exclusive,";
        let tokens = expand(syn::parse_str(options).unwrap(), syn::parse_str(GOOD).unwrap());
        let text = tokens.unwrap().to_string();
        for part in [
            "guest_fn ! (guest_code)",
            "cap :: IRQCHIP , cpu :: X2APIC",
            "Kernel",
            "\"smoke\" , \"irq\"",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
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
