//! What holds for any template and any JSON.

use proptest::prelude::*;
use serde_json::Value;

use super::arbitrary;
use crate::template::Template;

proptest! {
    #[test]
    fn any_json_parses_or_is_refused_with_faults(json in arbitrary::json()) {
        match Template::parse(&json) {
            Ok(template) => prop_assert!(template.validate().is_ok()),
            Err(faults) => {
                prop_assert!(!faults.0.is_empty());
                for fault in faults.0 {
                    prop_assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'));
                    prop_assert!(!fault.pointer.contains('\0') && !fault.detail.contains('\0'));
                }
            }
        }
    }

    #[test]
    fn any_json_over_a_valid_document_parses_or_is_refused_with_faults(template in arbitrary::template(), json in arbitrary::json()) {
        let mut document = serde_json::to_value(&template).expect("it serialises");
        if let (Value::Object(document), Value::Object(json)) = (&mut document, json) {
            document.extend(json);
        }
        if let Err(faults) = Template::parse(&document) {
            prop_assert!(!faults.0.is_empty());
        }
    }

    #[test]
    fn canonical_json_parses_back_to_the_same_template_with_the_same_hash(template in arbitrary::template()) {
        let value: Value = serde_json::from_str(&template.canonical_json()).expect("it is JSON");
        let parsed = Template::parse(&value);
        prop_assert!(parsed.is_ok(), "{:?}", parsed);
        let parsed = parsed.expect("it was just seen to be");
        prop_assert_eq!(parsed.hash(), template.hash());
        prop_assert_eq!(parsed, template);
    }

    #[test]
    fn what_parses_conforms_to_the_exported_schema(template in arbitrary::template()) {
        let value = serde_json::to_value(&template).expect("it serialises");
        prop_assert!(jsonschema::is_valid(&Template::json_schema(), &value), "{}", value);
    }
}
