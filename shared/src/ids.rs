//! Typed identifiers: UUIDv7 underneath, printed with a prefix (`run_…`), so that swapped arguments do not
//! compile and logs explain themselves.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::time::{Clock, Random};

/// Why a printed identifier was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {wanted}: expected `{prefix}` followed by 32 hexadecimal digits")]
pub struct BadId {
    /// What was given.
    pub given: String,
    /// The kind that was wanted, with its article.
    pub wanted: &'static str,
    /// The prefix of that kind.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The printed prefix of this kind of identifier.
            pub const PREFIX: &'static str = $prefix;

            /// A new time-ordered identifier.
            pub fn new(clock: &dyn Clock, random: &dyn Random) -> Self {
                Self(uuid_v7(clock, random))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(given: &str) -> Result<Self, BadId> {
                given
                    .strip_prefix($prefix)
                    .filter(|hex| hex.len() == 32)
                    .and_then(|hex| Uuid::try_parse(hex).ok())
                    .map(Self)
                    .ok_or_else(|| BadId {
                        given: given.chars().take(80).collect(),
                        wanted: $wanted,
                        prefix: $prefix,
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// One request and the whole tree of instances that it caused.
    RunId, "run_", "a run id"
);
id!(
    /// One spawned agent.
    InstanceId, "ins_", "an instance id"
);
id!(
    /// An agent template, in all its versions.
    TemplateId, "tpl_", "a template id"
);
id!(
    /// Siblings that were spawned together.
    GroupId, "grp_", "a group id"
);
id!(
    /// One life of one worker process. A restarted process has another.
    Incarnation, "wrk_", "a worker incarnation"
);
id!(
    /// The owner of templates, runs and everything below.
    TeamId, "team_", "a team id"
);
id!(
    /// A project within a team.
    ProjectId, "prj_", "a project id"
);

impl TeamId {
    /// The team that owns everything until teams can be made.
    pub const DEFAULT: Self = Self(Uuid::from_u128(0x01));
}

impl ProjectId {
    /// The project that holds everything until projects can be made.
    pub const DEFAULT: Self = Self(Uuid::from_u128(0x01));
}

/// A UUIDv7 (RFC 9562 §5.7) from the injected clock and randomness.
pub fn uuid_v7(clock: &dyn Clock, random: &dyn Random) -> Uuid {
    let mut bytes = [0_u8; 10];
    random.fill(&mut bytes);
    let millis = u64::try_from(clock.now().micros() / 1000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_with_its_prefix_and_parses_back() {
        let id = RunId(Uuid::from_u128(7));
        assert_eq!(id.to_string(), "run_00000000000000000000000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_id_of_another_kind_is_refused_and_says_what_was_wanted() {
        let printed = InstanceId(Uuid::from_u128(7)).to_string();
        let error = printed.parse::<RunId>().expect_err("kinds differ");
        assert!(error.to_string().contains("is not a run id"), "{error}");
        assert!("run_7".parse::<RunId>().is_err());
        assert!("run_{00000000-0000-0000-0000-0000000}".parse::<RunId>().is_err());
    }
}
