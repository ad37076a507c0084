//! Acting as somebody else: `Impersonate-User`, `-Group`, `-Uid` and `-Extra-*`, each allowed by the verb
//! `impersonate` on what it names.

use std::collections::BTreeMap;

use http::HeaderMap;

use catamaran_api::status::Status;

use crate::authenticate::{AUTHENTICATED, UserInfo};
use crate::authorize::{self, Action, Attributes};
use crate::core::Core;
use crate::query::{Plus, decode};

const AUTHENTICATION: &str = "authentication.k8s.io";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// What the headers of a request ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: Option<String>,
    groups: Vec<String>,
    uid: Option<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    /// # Errors
    /// 400 when a header is not text: to leave it out would be to act as somebody else.
    fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let mut wanted = Wanted::default();
        for (name, value) in headers {
            let Some(what) = name.as_str().strip_prefix("impersonate-") else { continue };
            let value = std::str::from_utf8(value.as_bytes())
                .map_err(|_| Status::bad_request(format!("the header {name} is not UTF-8")))?
                .to_owned();
            match what {
                "user" if !value.is_empty() => wanted.user = Some(value),
                "group" => wanted.groups.push(value),
                "uid" if !value.is_empty() => wanted.uid = Some(value),
                _ => {
                    if let Some(key) = what.strip_prefix("extra-") {
                        let key = decode(key, Plus::IsPlus).to_lowercase();
                        wanted.extra.entry(key).or_default().push(value);
                    }
                }
            }
        }
        Ok(wanted)
    }

    /// Whom the request then comes from.
    fn assume(self, user: String) -> UserInfo {
        let mut groups = self.groups;
        if groups.is_empty()
            && let Some((namespace, _)) = service_account(&user)
        {
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        let says = |group: &str| groups.iter().any(|mine| mine == group);
        let added = match user.as_str() {
            ANONYMOUS => (!says(UNAUTHENTICATED)).then_some(UNAUTHENTICATED),
            _ => (!says(AUTHENTICATED) && !says(UNAUTHENTICATED)).then_some(AUTHENTICATED),
        };
        groups.extend(added.map(str::to_owned));
        UserInfo { name: user, groups, uid: self.uid, extra: self.extra }
    }
}

/// Namespace and name of the account behind `system:serviceaccount:NAMESPACE:NAME`.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The user that a request is from, after impersonation.
///
/// # Errors
/// 403 when the caller may not act as that; 400 when the headers name no user.
pub(crate) async fn assume(core: &Core, caller: UserInfo, headers: &HeaderMap) -> Result<UserInfo, Status> {
    let mut wanted = Wanted::of(headers)?;
    let Some(user) = wanted.user.take() else {
        if wanted == Wanted::default() {
            return Ok(caller);
        }
        return Err(Status::bad_request("requested a group, uid or extra without impersonating a user"));
    };
    let may = async |group: &str, (resource, subresource): (&str, &str), namespace: &str, name: &str| {
        let verb = "impersonate";
        let action = Action::Resource(Attributes { verb, group, resource, subresource, namespace, name });
        authorize::require(core, &caller, &action).await
    };
    match service_account(&user) {
        Some((namespace, name)) => may("", ("serviceaccounts", ""), namespace, name).await?,
        None => may("", ("users", ""), "", &user).await?,
    }
    for group in &wanted.groups {
        may("", ("groups", ""), "", group).await?;
    }
    if let Some(uid) = &wanted.uid {
        may(AUTHENTICATION, ("uids", ""), "", uid).await?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may(AUTHENTICATION, ("userextras", key), "", value).await?;
        }
    }
    Ok(wanted.assume(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assumed(headers: &[(&str, &str)]) -> UserInfo {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let mut wanted = Wanted::of(&map).unwrap();
        let user = wanted.user.take().unwrap();
        wanted.assume(user)
    }

    #[test]
    fn groups_follow_from_the_name() {
        type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);
        let table: [Case; 6] = [
            (&[("impersonate-user", "jane")], &["system:authenticated"]),
            (
                &[("impersonate-user", "jane"), ("impersonate-group", "dev"), ("impersonate-group", "ops")],
                &["dev", "ops", "system:authenticated"],
            ),
            (
                &[("impersonate-user", "system:serviceaccount:ns:sa")],
                &["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
            ),
            (
                &[("impersonate-user", "system:serviceaccount:ns:sa"), ("impersonate-group", "g")],
                &["g", "system:authenticated"],
            ),
            (&[("impersonate-user", "system:anonymous")], &["system:unauthenticated"]),
            (
                &[("impersonate-user", "x"), ("impersonate-group", "system:unauthenticated")],
                &["system:unauthenticated"],
            ),
        ];
        for (headers, groups) in table {
            assert_eq!(assumed(headers).groups, groups, "{headers:?}");
        }
        let extra =
            assumed(&[("impersonate-user", "x"), ("Impersonate-Extra-Example.com%2fScopes", "v")]).extra;
        assert_eq!(extra["example.com/scopes"], ["v"]);
    }

    #[test]
    fn a_header_that_is_not_text_is_refused_instead_of_left_out() {
        let mut headers = HeaderMap::new();
        headers.append("impersonate-user", http::HeaderValue::from_bytes(b"jane\xff").unwrap());
        let refused = Wanted::of(&headers).unwrap_err();
        assert_eq!((refused.code, refused.message.contains("impersonate-user")), (400, true), "{refused:?}");
    }

    #[test]
    fn accounts() {
        assert_eq!(service_account("system:serviceaccount:a:b"), Some(("a", "b")));
        for other in
            ["jane", "system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:b:c"]
        {
            assert_eq!(service_account(other), None, "{other}");
        }
    }
}
