//! `guest_asm!`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, Ident, LitInt, LitStr, Result, Token, Visibility};

/// What stands in the macro's braces: `/// …` `pub NAME, bits16: "…", "…", name = const EXPRESSION`.
pub(crate) struct Input {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    bits: u32,
    align: u32,
    lines: Vec<LitStr>,
    operands: Vec<Operand>,
}

impl Input {
    /// The name of its static.
    pub(crate) fn name(&self) -> &Ident {
        &self.name
    }
}

/// `name = const expression`.
struct Operand {
    name: Ident,
    value: Expr,
}

impl Parse for Operand {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = input.parse()?;
        input.parse::<Token![=]>()?;
        input.parse::<Token![const]>()?;
        Ok(Self { name, value: input.parse()? })
    }
}

impl ToTokens for Operand {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { name, value } = self;
        tokens.extend(quote! { #name = const #value });
    }
}

impl Parse for Input {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let name = input.parse()?;
        input.parse::<Token![,]>()?;
        let mode: Ident = input.parse()?;
        let bits = match mode.to_string().as_str() {
            "bits16" => 16,
            "bits32" => 32,
            "bits64" => 64,
            _ => return Err(Error::new(mode.span(), "expected bits16, bits32 or bits64")),
        };
        let mut align = 16;
        if let Some(word) = input.parse::<Option<Ident>>()? {
            if word != "align" {
                return Err(Error::new(word.span(), "expected align(BYTES)"));
            }
            let content;
            syn::parenthesized!(content in input);
            align = content.parse::<LitInt>()?.base10_parse()?;
        }
        input.parse::<Token![:]>()?;
        let mut lines = Vec::new();
        while input.peek(LitStr) {
            lines.push(input.parse()?);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        if lines.is_empty() {
            return Err(Error::new(mode.span(), "expected instructions, one string each"));
        }
        let operands: Punctuated<Operand, Token![,]> = Punctuated::parse_terminated(input)?;
        let operands = operands.into_iter().collect();
        Ok(Self { attributes, visibility, name, bits, align, lines, operands })
    }
}

/// The handle of both halves, and in the payload the code and what the host is to know of it.
pub(crate) fn expand(input: &Input, place: &str) -> TokenStream {
    let Input { attributes, visibility, name, bits, operands, .. } = input;
    let (start, end) = (format!("guest_asm_{place}"), format!("guest_asm_{place}_end"));
    let templates = templates(input, &start, &end);
    let values = operands.iter().map(|operand| &operand.value);
    quote! {
        #[cfg(kvm_guest)]
        ::core::arch::global_asm!(#(#templates,)* #(#operands,)*);

        #(#attributes)*
        #visibility static #name: ::guest_runtime::asm::Blob = {
            const NAME: &str = concat!(module_path!(), "::", stringify!(#name));
            #[cfg(kvm_guest)]
            {
                unsafe extern "C" {
                    #[link_name = #start]
                    safe static START: u8;
                    #[link_name = #end]
                    safe static END: u8;
                }
                ::guest_runtime::asm::Blob::new(NAME, #bits, &raw const START, &raw const END)
            }
            #[cfg(not(kvm_guest))]
            {
                // Used in the payload alone.
                #(let _ = #values;)*
                ::guest_runtime::asm::Blob::new(NAME, #bits, ::core::ptr::null(), ::core::ptr::null())
            }
        };
    }
}

/// The lines of the assembler's input. The record in `.guest_asm`, which takes no guest memory, is read by
/// `harness/vm/src/payload/code.rs`.
fn templates(input: &Input, start: &str, end: &str) -> Vec<TokenStream> {
    let Input { name, bits, lines, .. } = input;
    let mut templates = Vec::new();
    let mut line = |text: &str| templates.push(literal(text));
    // Code of other modes is linked to where these can run it.
    let section = if *bits == 64 { ".text.guest_asm" } else { ".text.low.guest_asm" };
    line(&format!(".pushsection {section}, \"ax\""));
    line(&format!(".balign {}", input.align));
    line(&format!(".globl {start}"));
    line(&format!(".globl {end}"));
    line(&format!("{start}:"));
    if *bits != 64 {
        line(&format!(".code{bits}"));
    }
    for (nth, text) in lines.iter().enumerate() {
        line(&format!("{start}_{nth}:"));
        line(&text.value());
    }
    if *bits != 64 {
        line(".code64");
    }
    line(&format!("{end}:"));
    line(".popsection");
    line(".pushsection .guest_asm, \"\"");
    line(&format!(".quad {start}"));
    line(&format!(".long {end} - {start}"));
    line(&format!(".long {bits}"));
    line(&format!(".long {}", lines.len()));
    line(".long 882f - 881f");
    line("881:");
    templates.push(quote! {
        concat!(".ascii \"", module_path!(), "::", stringify!(#name), "\"")
    });
    let mut line = |text: &str| templates.push(literal(text));
    line("882:");
    for (nth, text) in lines.iter().enumerate() {
        line(&format!(".long {start}_{nth} - {start}"));
        line(".long 884f - 883f");
        line("883:");
        let escaped = text.value().replace('\\', "\\\\").replace('"', "\\\"");
        line(&format!(".ascii \"{escaped}\""));
        line("884:");
    }
    line(".popsection");
    templates
}

fn literal(text: &str) -> TokenStream {
    LitStr::new(text, Span::call_site()).into_token_stream()
}
