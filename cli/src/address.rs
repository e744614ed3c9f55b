//! Addresses of databases and of Redis, which may hold passwords.

use std::fmt;

use serde::Deserialize;

/// An address that may hold a password: it is only shown without it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Address(String);

impl Address {
    /// An address as it was given.
    pub(crate) fn new(address: String) -> Self {
        Self(address)
    }

    /// The address itself, for connecting.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL with its password and its query taken out (drivers accept passwords in both). Whatever stands before the
/// last `@` counts as user and password, so that no odd character in a password can show a part of it.
fn redacted(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let user = user.map_or(String::new(), |user| match user.split_once(':') {
        Some((name, _)) => format!("{name}:***@"),
        None => format!("{user}@"),
    });
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?***"));
    format!("{scheme}://{user}{rest}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("postgres://muster:se:cr@et@host:5432/db?sslmode=x&password=y", "postgres://muster:***@host:5432/db?***"),
            ("postgres://u:a/b?c@host/db", "postgres://u:***@host/db"),
            ("redis://:secret@host", "redis://:***@host"),
            ("postgres://host/db", "postgres://host/db"),
            ("sqlite:data/muster.db", "sqlite:data/muster.db"),
            ("host=h password=secret", "***"),
        ] {
            let address = Address::new(url.to_owned());
            assert_eq!((address.to_string().as_str(), format!("{address:?}").as_str()), (shown, shown));
        }
    }
}
