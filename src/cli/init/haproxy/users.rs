//! `http-request auth` with the users of a list: `auth` of routes.

use super::{
    super::{
        draft::{SettingDrafts, quoted},
        note::NoteKind,
    },
    HaproxyTranslator, ProxySection,
    acl::{AclTable, AclTest},
    filters::sole_tests,
    frontend::mark_acls,
    syntax::ConfigLine,
};

impl<'t> HaproxyTranslator<'t> {
    /// `http-request auth` for every client without a password of a list. Any other stays a note about lost access control.
    pub(super) fn users(
        &mut self,
        settings: &mut SettingDrafts,
        proxy: &ProxySection<'t>,
        line: &'t ConfigLine,
        named: &AclTable,
    ) {
        let Some((at, true, tests)) = sole_tests(line, named) else { return };
        let [AclTest::Users(list)] = &tests[..] else { return };
        let found = self.userlists.iter().find(|section| section.name() == list.as_str());
        let Some(section) = found.copied().filter(|_| settings.value("auth").is_none()) else {
            return;
        };
        line.take();
        mark_acls(proxy, line.rest(at));
        let file = self.folder.join(format!("{list}.users")).display().to_string();
        settings.set("auth", format!("{{ basic = {{ file = {} }} }}", quoted(&file)));
        let reason = "write a line `NAME:HASH` for each user into the file of `auth`: `htpasswd -nB NAME` prints it";
        self.note(NoteKind::Different, &section.head, reason);
    }
}
