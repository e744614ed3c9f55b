//! The form of an answer: from the model's text to the stored output.

use serde_json::Value;

use crate::{
    engine::OutputSpec,
    error::{AgentError, ErrorClass},
};

/// An [`OutputSpec`] made ready: its schema is compiled once.
#[derive(Debug)]
pub struct OutputForm {
    json: Option<Option<jsonschema::Validator>>,
}

impl OutputForm {
    /// Compiles the schema. It was checked when the template was made, so failing here is a broken policy.
    pub fn new(spec: &OutputSpec) -> Result<Self, AgentError> {
        let json = match spec {
            OutputSpec::Text | OutputSpec::Markdown => None,
            OutputSpec::Json { schema: None } => Some(None),
            OutputSpec::Json { schema: Some(schema) } => {
                let validator = jsonschema::validator_for(schema).map_err(|error| {
                    AgentError::new(ErrorClass::Validation, "bad_schema", format!("the output schema is unusable: {error}"))
                })?;
                Some(Some(validator))
            }
        };
        Ok(Self { json })
    }

    /// The output, as JSON text: a string for text and Markdown, the validated value for JSON.
    pub fn read(&self, text: &str) -> Result<String, AgentError> {
        let Some(validator) = &self.json else {
            return Ok(Value::String(text.to_owned()).to_string());
        };
        let value: Value = serde_json::from_str(unfenced(text))
            .map_err(|error| AgentError::new(ErrorClass::Validation, "invalid_output", format!("the answer is not JSON: {error}")))?;
        if let Some(validator) = validator {
            let faults: Vec<String> =
                validator.iter_errors(&value).take(5).map(|error| format!("{}: {error}", error.instance_path())).collect();
            if !faults.is_empty() {
                let message = format!("the answer does not conform to the output schema: {}", faults.join("; "));
                return Err(AgentError::new(ErrorClass::Validation, "invalid_output", message));
            }
        }
        Ok(value.to_string())
    }
}

/// Models like to put JSON between Markdown fences.
fn unfenced(text: &str) -> &str {
    let trimmed = text.trim();
    trimmed
        .strip_prefix("```json")
        .or_else(|| trimmed.strip_prefix("```"))
        .and_then(|inner| inner.strip_suffix("```"))
        .map_or(trimmed, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(schema: Value) -> OutputForm {
        OutputForm::new(&OutputSpec::Json { schema: Some(schema) }).expect("a valid schema")
    }

    #[test]
    fn text_becomes_a_json_string() {
        let form = OutputForm::new(&OutputSpec::Text).expect("text needs no schema");
        assert_eq!(form.read("a \"b\"\n").as_deref(), Ok("\"a \\\"b\\\"\\n\""));
    }

    #[test]
    fn json_is_validated_and_fences_are_taken_off() {
        let form = json(serde_json::json!({ "type": "object", "required": ["a"], "properties": { "a": { "type": "integer" } } }));
        assert_eq!(form.read("```json\n{\"a\": 1}\n```").as_deref(), Ok("{\"a\":1}"));
        for wrong in ["{\"a\": \"x\"}", "{}", "a", ""] {
            assert_eq!(form.read(wrong).map_err(|error| error.code), Err("invalid_output".to_owned()), "{wrong}");
        }
    }
}
