//! Keys of providers: where they come from, and a type that does not show them.

use std::{fmt, io::Read as _, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Keys are short; a larger file is a mistake.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// A key. It has no `Display` and no `Serialize`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself, for the one header that carries it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without the key: providers like to repeat it in their errors.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "***") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Where a key is found: `env:NAME` or `file:/path`. A key itself never stands in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The environment variable of this name.
    Env(String),
    /// The first line of this file.
    File(PathBuf),
}

/// The text given as `api_key` is not a source of a key. The text is not repeated: it may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an api_key is written `env:NAME` or `file:/path`; the key itself does not belong into a configuration")]
pub struct NotAKeySource;

impl FromStr for KeySource {
    type Err = NotAKeySource;

    fn from_str(text: &str) -> Result<Self, NotAKeySource> {
        match text.split_once(':') {
            Some(("env", name)) if !name.trim().is_empty() => Ok(Self::Env(name.trim().to_owned())),
            Some(("file", path)) if !path.trim().is_empty() => Ok(Self::File(PathBuf::from(path.trim()))),
            _ => Err(NotAKeySource),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Serialize for KeySource {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeySource {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl KeySource {
    /// Reads the key; `environment` looks up a variable. The error names the source, never what it held.
    pub fn read(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Secret, String> {
        let key = match self {
            Self::Env(name) => environment(name).ok_or_else(|| format!("the environment variable {name} is not set"))?,
            Self::File(path) => {
                let mut text = String::new();
                std::fs::File::open(path)
                    .and_then(|file| file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text))
                    .map_err(|error| format!("the key file {} cannot be read: {error}", path.display()))?;
                if text.len() as u64 > KEY_FILE_BYTES_MAX {
                    return Err(format!("the key file {} is larger than {KEY_FILE_BYTES_MAX} bytes", path.display()));
                }
                text.lines().next().unwrap_or_default().to_owned()
            }
        };
        let key = key.trim();
        if key.is_empty() {
            return Err(format!("{self} is empty"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{self} holds characters that no key has"));
        }
        Ok(Secret::new(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_is_taken_out_of_texts() {
        let secret = Secret::new("sk-123");
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(secret.redact("bad key sk-123!"), "bad key ***!");
    }

    #[test]
    fn a_key_comes_from_the_environment_or_a_file_and_never_from_the_configuration() {
        let environment = |name: &str| (name == "KEY").then(|| " sk-1\n".to_owned());
        assert_eq!("env:KEY".parse::<KeySource>().unwrap().read(&environment), Ok(Secret::new("sk-1")));
        let missing = "env:OTHER".parse::<KeySource>().unwrap().read(&environment);
        assert_eq!(missing, Err("the environment variable OTHER is not set".to_owned()));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk-2\nnot this\n").unwrap();
        let source: KeySource = format!("file:{}", path.display()).parse().unwrap();
        assert_eq!(source.read(&environment), Ok(Secret::new("sk-2")));
        std::fs::write(&path, "\n").unwrap();
        assert!(source.read(&environment).unwrap_err().ends_with("is empty"));

        let refused = "sk-secret".parse::<KeySource>().unwrap_err().to_string();
        assert!(refused.contains("env:NAME") && !refused.contains("sk-secret"), "{refused}");
    }
}
