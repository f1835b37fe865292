//! `$(...)` in commands, arguments and variables: parsed once, typed, never expanded again.

use trainyard_crds::condition::Reason;

use crate::SpecProblem;

/// A text with references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) parts: Vec<Part>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Reference(Reference),
}

/// What `$(...)` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// `params.NAME`
    Param(String),
    /// `inputs.NAME.path`
    InputPath(String),
    /// `outputs.NAME.path`
    OutputPath(String),
    /// `stages.STAGE.results.NAME`
    StageResult { stage: String, result: String },
    /// `stages.STAGE.phase`, in `finally` only
    StagePhase(String),
    /// `run.name`, `run.namespace`, `run.uid`, `run.pipeline`; `run.phase` in `finally` only
    Run(RunField),
}

/// Fields of `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunField {
    Name,
    Namespace,
    Uid,
    Pipeline,
    Phase,
}

const KNOWN: &str = "params.NAME, inputs.NAME.path, outputs.NAME.path, stages.STAGE.results.NAME, run.name, run.namespace, \
                     run.uid, run.pipeline, and in finally run.phase and stages.STAGE.phase";

/// A piece of a text with references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Literal(String),
    /// What stands between `$(` and `)`.
    Reference(&'a str),
}

/// Cuts a text at its references. `$$(` is a literal `$(`; a `$` before anything else is itself.
pub(crate) fn pieces<'a>(text: &'a str, path: &str) -> Result<Vec<Piece<'a>>, SpecProblem> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$(") {
            literal.push_str("$(");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("$(") {
            let end = after.find(')').ok_or_else(|| {
                SpecProblem::new(
                    Reason::UnknownReference,
                    path,
                    "a $( has no closing parenthesis; write $$( for a literal $(",
                )
            })?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Reference(&after[..end]));
            rest = &after[end + 1..];
        } else {
            literal.push('$');
            rest = &rest[1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

impl Template {
    /// Parses a text: see [`pieces`].
    pub(crate) fn parse(text: &str, path: &str) -> Result<Self, SpecProblem> {
        let part = |piece| {
            Ok(match piece {
                Piece::Literal(text) => Part::Literal(text),
                Piece::Reference(text) => Part::Reference(Reference::parse(text, path)?),
            })
        };
        Ok(Self { parts: pieces(text, path)?.into_iter().map(part).collect::<Result<_, _>>()? })
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Literal(_) => None,
        })
    }
}

impl Reference {
    fn parse(text: &str, path: &str) -> Result<Self, SpecProblem> {
        let parts: Vec<&str> = text.split('.').collect();
        Ok(match parts.as_slice() {
            ["params", name] => Self::Param((*name).to_owned()),
            ["inputs", name, "path"] => Self::InputPath((*name).to_owned()),
            ["outputs", name, "path"] => Self::OutputPath((*name).to_owned()),
            ["stages", stage, "results", result] => {
                Self::StageResult { stage: (*stage).to_owned(), result: (*result).to_owned() }
            }
            ["stages", stage, "phase"] => Self::StagePhase((*stage).to_owned()),
            ["run", "name"] => Self::Run(RunField::Name),
            ["run", "namespace"] => Self::Run(RunField::Namespace),
            ["run", "uid"] => Self::Run(RunField::Uid),
            ["run", "pipeline"] => Self::Run(RunField::Pipeline),
            ["run", "phase"] => Self::Run(RunField::Phase),
            _ => {
                return Err(SpecProblem::new(
                    Reason::UnknownReference,
                    path,
                    format!("$({text}) is not a reference; there are {KNOWN}; write $$( for a literal $("),
                ));
            }
        })
    }
}

/// A text that, parsed, is this one.
pub(crate) fn escaped(text: &str) -> String {
    text.replace("$(", "$$(")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn literals(text: &str) -> String {
        let template = Template::parse(text, "x").unwrap();
        template
            .parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.as_str(),
                Part::Reference(_) => "<reference>",
            })
            .collect()
    }

    #[test]
    fn references_are_found_and_literals_kept() {
        assert_eq!(literals("a $(params.x) b"), "a <reference> b");
        assert_eq!(literals("$$(params.x)"), "$(params.x)");
        assert_eq!(literals("$5 $ ${HOME} $$ {{x}}"), "$5 $ ${HOME} $$ {{x}}");
        assert_eq!(literals(""), "");
        assert_eq!(
            Template::parse("$(stages.a-b.results.n)", "x").unwrap().parts,
            [Part::Reference(Reference::StageResult { stage: "a-b".into(), result: "n".into() })]
        );
    }

    #[test]
    fn what_is_not_a_reference_is_refused_with_the_way_out() {
        for text in ["$(HOME)", "$(rm -rf /)", "$(params.a.b)", "$(params)", "$()", "$(open", "$($(params.x))"] {
            let problem = Template::parse(text, "spec.stages[0].container.command[1]").unwrap_err();
            assert_eq!(problem.reason, Reason::UnknownReference, "{text}");
            assert!(problem.to_string().starts_with("spec.stages[0].container.command[1]: "), "{problem}");
            assert!(problem.to_string().contains("$$("), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn a_text_without_an_opening_is_itself(text in "[^$]*") {
            prop_assert_eq!(literals(&text), text);
        }

        #[test]
        fn escaping_gives_back_any_text(text in "([$()]|\\PC){0,40}") {
            prop_assert_eq!(literals(&escaped(&text)), text);
        }

        #[test]
        fn parsing_never_panics(text in "[$()a-z. ]{0,40}") {
            let _ = Template::parse(&text, "x");
        }
    }
}
