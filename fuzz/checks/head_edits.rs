//! Properties of edited heads that hold for all input: a head with edits has the fields of a simple model, and is
//! written and read with these fields.
//!
//! Input for the fuzz target is a list of edits, then a head. An edit is a byte for its kind, the length of a name in a
//! byte, the name, the length of a value in a byte, and the value; a zero byte ends the list.

use http::Method;
use moorline_http::{
    Buffer, ClientConnection, FieldId, Head, HeadLimits, HttpVersion, RequestParser, ResponseParser,
};

/// Limits that no written head reaches.
const LIMITS: HeadLimits = HeadLimits { size: 1 << 20, fields: 10_000 };

/// A change of a head.
#[derive(Debug, Clone)]
pub(crate) struct HeadEdit {
    pub(crate) kind: EditKind,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// What an edit does. The kinds without `Named` change a known field, and do nothing for other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EditKind {
    Append,
    AppendWritten,
    AppendNamed,
    Set,
    SetFormatted,
    SetNamed,
    Remove,
    RemoveNamed,
    /// Drops the fields whose values begin with the value of the edit.
    RetainOthers,
}

impl EditKind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Append,
        Self::AppendWritten,
        Self::AppendNamed,
        Self::Set,
        Self::SetFormatted,
        Self::SetNamed,
        Self::Remove,
        Self::RemoveNamed,
        Self::RetainOthers,
    ];
}

/// Fields of a head: names and values, in order.
type ModelFields = Vec<(Vec<u8>, Vec<u8>)>;

/// Decodes the edits and the head, and panics if a property is violated. Returns whether the head is valid.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let (edits, head) = decode(bytes);
    check_edits(head, &edits)
}

/// Panics if a property is violated for these edits of this head. Returns whether the head is a valid request or response.
pub(crate) fn check_edits(head: &[u8], edits: &[HeadEdit]) -> bool {
    let is_request = check_request(head, edits);
    let is_response = check_response(head, edits);
    is_request || is_response
}

/// Splits input into edits and head.
fn decode(mut bytes: &[u8]) -> (Vec<HeadEdit>, &[u8]) {
    let mut edits = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        bytes = rest;
        if kind == 0 {
            break;
        }
        let kind = EditKind::ALL[usize::from(kind - 1) % EditKind::ALL.len()];
        let (name, value) = (counted(&mut bytes), counted(&mut bytes));
        edits.push(HeadEdit { kind, name, value });
    }
    (edits, bytes)
}

/// Takes a length in a byte, and as many bytes as are left of it.
fn counted(bytes: &mut &[u8]) -> Vec<u8> {
    let Some((&length, rest)) = bytes.split_first() else { return Vec::new() };
    let (taken, rest) = rest.split_at(usize::from(length).min(rest.len()));
    *bytes = rest;
    taken.to_vec()
}

fn check_request(bytes: &[u8], edits: &[HeadEdit]) -> bool {
    let read = |bytes: &[u8]| {
        let mut input = Some(Buffer::of(bytes));
        let head = RequestParser::default().parse(&mut input, LIMITS).ok().flatten()?;
        Some((head, input.is_none_or(|rest| rest.is_empty())))
    };
    let Some((mut request, _)) = read(bytes) else { return false };
    request.strip_hop_by_hop(&[]);
    let model = edit(&mut request.head, edits);
    let mut out = Buffer::new();
    request.write(&mut out, request.length(), None);
    check_lines(out.filled());
    let (again, is_whole) = read(out.filled()).expect("the written request is valid");
    assert!(is_whole, "bytes behind the written head");
    assert_eq!((&again.method, again.length()), (&request.method, request.length()));
    assert_eq!(without_framing(fields_of(&again.head)), without_framing(trimmed(model)));
    true
}

fn check_response(bytes: &[u8], edits: &[HeadEdit]) -> bool {
    let read = |bytes: &[u8]| {
        let mut input = Some(Buffer::of(bytes));
        let head = ResponseParser::default().parse(&mut input, LIMITS, &Method::GET).ok().flatten();
        Some((head?, input.is_none_or(|rest| rest.is_empty())))
    };
    let Some((mut response, _)) = read(bytes) else { return false };
    response.strip_hop_by_hop();
    let model = edit(&mut response.head, edits);
    let mut out = Buffer::new();
    let client = ClientConnection { version: HttpVersion::Http11, closes: true, upgrade: None };
    response.write(&mut out, response.length(), client);
    check_lines(out.filled());
    let (again, is_whole) = read(out.filled()).expect("the written response is valid");
    assert!(is_whole, "bytes behind the written head");
    assert_eq!((again.status, again.length()), (response.status, response.length()));
    let mut sent = without_framing(fields_of(&again.head));
    let expected = without_framing(trimmed(model));
    // The response has its date and its connection after all others.
    let added = sent.split_off(expected.len().min(sent.len()));
    assert_eq!(sent, expected);
    assert!(
        added.iter().all(|(name, _)| [&b"Date"[..], b"Connection"].contains(&name.as_slice())),
        "added {added:?}"
    );
    true
}

/// Asserts that CR and LF occur only as the ends of lines, and NUL never.
fn check_lines(bytes: &[u8]) {
    let text = bytes.escape_ascii();
    assert!(bytes.ends_with(b"\r\n\r\n"), "{text}");
    for line in bytes[..bytes.len() - 2].split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or_else(|| panic!("bare LF in {text}"));
        assert!(!line.is_empty(), "an empty line in {text}");
        assert!(!line.iter().any(|byte| b"\r\n\0".contains(byte)), "{text}");
    }
}

/// Applies the edits to a head and to a model of it, and asserts after each that both are equal.
fn edit(head: &mut Head, edits: &[HeadEdit]) -> ModelFields {
    let mut model = fields_of(head);
    // The fields that frame the body are not changed by edits.
    for edit in edits.iter().filter(|edit| !is_framing(&edit.name)) {
        apply(head, edit);
        apply_to_model(&mut model, edit);
        assert_eq!(fields_of(head), model, "after {edit:?}");
        let id = FieldId::of(&edit.name);
        let same = |(name, _): &&(Vec<u8>, Vec<u8>)| name.eq_ignore_ascii_case(&edit.name);
        let expected: Vec<&[u8]> =
            model.iter().filter(same).map(|(_, value)| value.as_slice()).collect();
        if id != FieldId::Other {
            assert_eq!(head.all(id).collect::<Vec<_>>(), expected);
            assert_eq!(head.get(id), expected.first().copied());
            assert_eq!(head.has(id), !expected.is_empty());
            assert_eq!(head.only(id).is_some(), expected.len() == 1);
        }
        if let Ok(name) = str::from_utf8(&edit.name) {
            assert_eq!(head.named(name).collect::<Vec<_>>(), expected);
        }
    }
    model
}

fn apply(head: &mut Head, HeadEdit { kind, name, value }: &HeadEdit) {
    let id = FieldId::of(name);
    // A name that is not UTF-8 is as invalid as an empty one.
    let name = str::from_utf8(name).unwrap_or_default();
    let text = String::from_utf8_lossy(value);
    match kind {
        EditKind::Append => head.append(id, value),
        EditKind::AppendWritten => head.append_with(id, |out| out.push(text.as_bytes())),
        EditKind::AppendNamed => head.append_named(name, value),
        EditKind::Set => head.set(id, value),
        EditKind::SetFormatted => head.set_fmt(id, format_args!("{text}")),
        EditKind::SetNamed => head.set_named(name, value),
        EditKind::Remove => head.remove(id),
        EditKind::RemoveNamed => head.remove_named(name.as_bytes()),
        EditKind::RetainOthers => {
            head.retain(|field| is_framing(field.name) || !field.value.starts_with(value));
        }
    }
}

fn apply_to_model(model: &mut ModelFields, HeadEdit { kind, name, value }: &HeadEdit) {
    use EditKind::{
        Append, AppendNamed, AppendWritten, Remove, RemoveNamed, RetainOthers, Set, SetFormatted,
        SetNamed,
    };
    if *kind == RetainOthers {
        return model.retain(|(name, field)| is_framing(name) || !field.starts_with(value));
    }
    let id = FieldId::of(name);
    let by_name = matches!(kind, AppendNamed | SetNamed | RemoveNamed);
    if id == FieldId::Other && !by_name {
        return;
    }
    if matches!(kind, Set | SetFormatted | SetNamed | Remove | RemoveNamed) {
        model.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }
    let value = match kind {
        AppendWritten | SetFormatted => String::from_utf8_lossy(value).into_owned().into_bytes(),
        _ => value.clone(),
    };
    let is_valid = !value.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control())
        && !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    let name = if by_name { name.clone() } else { id.name().as_bytes().to_vec() };
    if is_valid
        && matches!(kind, Append | AppendWritten | AppendNamed | Set | SetFormatted | SetNamed)
    {
        model.push((name, value));
    }
}

fn fields_of(head: &Head) -> ModelFields {
    head.fields().map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
}

/// Values as the next hop reads them: without spaces around them.
fn trimmed(mut fields: ModelFields) -> ModelFields {
    for (_, value) in &mut fields {
        *value = moorline_http::trim(value).to_vec();
    }
    fields
}

fn without_framing(mut fields: ModelFields) -> ModelFields {
    fields.retain(|(name, _)| !is_framing(name));
    fields
}

fn is_framing(name: &[u8]) -> bool {
    matches!(FieldId::of(name), FieldId::ContentLength | FieldId::TransferEncoding)
}
