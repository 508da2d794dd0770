//! The style of the page. Its hash is the only source of styles that the page allows.

use std::sync::OnceLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(super) const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--panel:#f6f8fa;--line:#d0d7de;--link:#0550ae;--get:#0b6b37;\
--post:#0550ae;--put:#8a4b00;--delete:#b3261e;--other:#5c3d9c}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b3;--paper:#0d1117;--panel:#161b22;--line:#30363d;--link:#79b8ff;--get:#56d38a;\
--post:#79b8ff;--put:#f0b35e;--delete:#ff8a80;--other:#c4a7ff}}\
*{box-sizing:border-box}html{scroll-padding-top:4rem}\
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,sans-serif;overflow-wrap:anywhere}\
a{color:var(--link)}a:focus-visible,summary:focus-visible,pre:focus-visible,.wide:focus-visible{outline:3px solid var(--link);outline-offset:2px}\
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--paper);padding:.5rem 1rem}\
header,nav,main{padding:1rem;max-width:120rem}header{border-bottom:1px solid var(--line)}\
h1{margin:.25rem 0;font-size:1.7rem;line-height:1.25}h2{margin:2rem 0 .75rem;font-size:1.25rem}h3{margin:1rem 0 .35rem;font-size:1rem}\
.soft{color:var(--soft)}.text{white-space:pre-line;margin:.35rem 0;max-width:75ch}\
nav ul{list-style:none;margin:0;padding:0;font-size:.9rem}nav li{margin:.1rem 0}nav a{display:block;padding:.25rem 0;text-decoration:none}\
nav a:hover{text-decoration:underline}\
details.one{border:1px solid var(--line);border-radius:.5rem;margin:.6rem 0;background:var(--panel)}\
details.one>summary{cursor:pointer;padding:.65rem .8rem}details.one>div{padding:0 .8rem .8rem}\
.method{display:inline-block;min-width:4.6rem;font-weight:700;font-family:ui-monospace,monospace;font-size:.9rem;color:var(--other)}\
.get{color:var(--get)}.post{color:var(--post)}.put,.patch{color:var(--put)}.delete{color:var(--delete)}\
code,pre{font-family:ui-monospace,monospace;font-size:.9rem}\
pre{background:var(--paper);border:1px solid var(--line);border-radius:.35rem;padding:.6rem;margin:.35rem 0;overflow-x:auto;overflow-wrap:normal}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.95rem;overflow-wrap:normal}\
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line)}td:last-child{overflow-wrap:anywhere;min-width:10rem}\
.old{text-decoration:line-through}\
@media(min-width:64rem){.columns{display:grid;grid-template-columns:20rem minmax(0,1fr);max-width:110rem;margin:0 auto}\
header>*{max-width:108rem;margin-left:auto;margin-right:auto}nav{position:sticky;top:0;max-height:100vh;overflow-y:auto;border-right:1px solid var(--line)}\
main{padding:1rem 2rem}}";

/// Returns the policy of the page: nothing is loaded, and no script runs.
pub(super) fn policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
        let hash = STANDARD.encode(digest.as_ref());
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
        )
    })
}
