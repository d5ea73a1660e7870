//! Who workers run as: names become numbers, by the files `passwd` and `group`.

use std::fs;

use crate::exit::{Code, Failure};

/// Whoever workers run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// The user's further groups.
    pub(crate) groups: Option<Vec<u32>>,
    /// `USER`, `LOGNAME` and `HOME`, as a login would set them.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Account {
    /// Looks up what was typed.
    pub(crate) fn find(user: Option<&str>, group: Option<&str>) -> Result<Self, Failure> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let account =
            Self::of(user, group, &read("/etc/passwd"), &read("/etc/group")).map_err(Failure::usage)?;
        let may = Rights::of(&read("/proc/self/status"));
        account.must_be_allowed(may)?;
        Ok(account)
    }

    /// Each worker would fail to start; so it is said before there are any.
    fn must_be_allowed(&self, may: Rights) -> Result<(), Failure> {
        let refused = match () {
            () if self.uid.is_some() && !may.set_user => {
                "--user: this process may not start programs as another user"
            }
            () if self.gid.is_some() && !may.set_group => {
                "--group: this process may not start programs in another group"
            }
            () => return Ok(()),
        };
        Err(Failure::new(Code::Permission, format!("{refused}; run it as root, or leave that out")))
    }

    fn of(user: Option<&str>, group: Option<&str>, passwd: &str, groups: &str) -> Result<Self, String> {
        let mut account =
            user.map_or_else(|| Ok(Self::default()), |user| Self::of_user(user, passwd, groups))?;
        if let Some(group) = group {
            let known = groups.lines().find_map(|line| {
                let mut fields = line.split(':');
                let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
                (name == group).then(|| gid.parse().ok()).flatten()
            });
            let gid = known.or_else(|| group.parse().ok());
            account.gid =
                Some(gid.ok_or_else(|| format!("--group {group}: there is no such group in /etc/group"))?);
        }
        match user {
            // It would keep ours, which may well be root's.
            Some(user) if account.gid.is_none() => Err(format!(
                "--user {user}: there is no such user in /etc/passwd, so its group is not known; add --group"
            )),
            _ => Ok(account),
        }
    }

    fn of_user(user: &str, passwd: &str, groups: &str) -> Result<Self, String> {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let known = |place: usize| passwd.lines().map(fields).find(|f| f.len() >= 6 && f[place] == user);
        let Some(known) = known(0).or_else(|| known(2)) else {
            let uid =
                user.parse().map_err(|_| format!("--user {user}: there is no such user in /etc/passwd"))?;
            return Ok(Self { uid: Some(uid), ..Self::default() });
        };
        let (Ok(uid), Ok(gid)) = (known[2].parse(), known[3].parse()) else {
            return Err(format!("--user {user}: the line in /etc/passwd has no numbers"));
        };
        let is_member = |line: &Vec<String>| line.len() >= 4 && line[3].split(',').any(|m| m == known[0]);
        let further = groups.lines().map(fields).filter(is_member).filter_map(|line| line[2].parse().ok());
        let variables =
            [("USER", 0), ("LOGNAME", 0), ("HOME", 5)].map(|(name, at)| (name, known[at].clone()));
        Ok(Self {
            uid: Some(uid),
            gid: Some(gid),
            groups: Some(further.collect()),
            variables: variables.into(),
        })
    }
}

/// What this process may do about users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    set_user: bool,
    set_group: bool,
}

impl Rights {
    /// As `/proc/PID/status` tells the capabilities in force; where it does not, starting a worker will show.
    fn of(status: &str) -> Self {
        const SETGID: u32 = 6;
        const SETUID: u32 = 7;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let set = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()).unwrap_or(u64::MAX);
        Self { set_user: set & (1 << SETUID) != 0, set_group: set & (1 << SETGID) != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nssl:x:110:www,backup\nlogs:x:4:www\n";

    fn of(user: Option<&str>, group: Option<&str>) -> Result<Account, String> {
        Account::of(user, group, PASSWD, GROUP)
    }

    #[test]
    fn a_user_comes_with_groups_and_a_home() {
        for user in ["www", "33"] {
            let www = of(Some(user), None).unwrap();
            assert_eq!((www.uid, www.gid, www.groups), (Some(33), Some(34), Some(vec![110, 4])));
            assert_eq!(www.variables[2], ("HOME", "/var/www".into()));
        }
        let typed = of(Some("www"), Some("ssl")).unwrap();
        assert_eq!((typed.uid, typed.gid), (Some(33), Some(110)));
    }

    #[test]
    fn numbers_need_no_entry_and_names_do() {
        let nobody = of(Some("4711"), Some("4712")).unwrap();
        assert_eq!((nobody.uid, nobody.gid, nobody.groups), (Some(4711), Some(4712), None));
        assert!(of(Some("wwww"), None).unwrap_err().contains("no such user"));
        assert!(of(Some("4711"), None).unwrap_err().contains("add --group"), "not root's group");
        assert!(of(None, Some("-1")).unwrap_err().contains("no such group"));
        assert_eq!(of(None, None).unwrap(), Account::default());
    }
    #[test]
    fn without_the_right_to_change_users_it_is_refused_before_any_worker() {
        let [root, nobody] =
            ["CapEff:\t000001ffffffffff\n", "Name:\tx\nCapEff:\t0000000000000000\n"].map(Rights::of);
        let www = of(Some("www"), None).unwrap();
        assert!(www.must_be_allowed(root).is_ok());
        assert_eq!(www.must_be_allowed(nobody).unwrap_err().code, Code::Permission);
        assert!(Account::default().must_be_allowed(nobody).is_ok());
    }
}
