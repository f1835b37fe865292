//! `when`: a condition in CEL over `params`, `stages` and `run`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, ExecutionError, Program, Value as Cel};
use serde_json::Value;
use trainyard_crds::condition::Reason;

use crate::SpecProblem;

/// A parsed condition.
#[derive(Clone)]
pub(crate) struct Expression {
    program: Arc<Program>,
    source: String,
    /// Stages that it reads.
    pub(crate) stages: BTreeSet<String>,
    /// Parameters that it reads.
    pub(crate) params: BTreeSet<String>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

/// What an expression can see.
pub(crate) struct Scope {
    /// `params`.
    pub(crate) params: BTreeMap<String, Value>,
    /// `stages.NAME.{phase,results,metrics}`.
    pub(crate) stages: BTreeMap<String, Value>,
    /// `run`.
    pub(crate) run: BTreeMap<String, Value>,
}

/// Why a condition has no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoValue {
    /// What it reads that is not there.
    pub(crate) key: Option<String>,
    /// A sentence: it cannot be evaluated, or not to a boolean.
    pub(crate) message: String,
}

impl Expression {
    /// The text that was parsed.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Parses a condition and finds what it reads.
    pub(crate) fn parse(source: &str, path: &str) -> Result<Self, SpecProblem> {
        let invalid = |message: String| SpecProblem::new(Reason::InvalidExpression, path, message);
        let program = Program::compile(source)
            .map_err(|error| invalid(format!("does not parse: {}", error.to_string().replace('\n', " "))))?;
        let mut names = Names::default();
        names.walk_node(program.expression());
        if let Some(unknown) = names.unknown.first() {
            return Err(SpecProblem::new(
                Reason::UnknownReference,
                path,
                format!(
                    "{unknown} does not exist; there are params.NAME, stages.NAME.phase, stages.NAME.results.NAME, stages.NAME.metrics.NAME and run.name (write stages[\"my-stage\"] for a name with a dash)"
                ),
            ));
        }
        if names.whole {
            return Err(invalid(
                "params and stages must be followed by a name, such as params.production or stages.train.metrics.accuracy".into(),
            ));
        }
        Ok(Self { program: Arc::new(program), source: source.to_owned(), stages: names.stages, params: names.params })
    }

    /// The condition's value.
    ///
    /// # Errors
    /// See [`NoValue`].
    pub(crate) fn evaluate(&self, scope: &Scope) -> Result<bool, NoValue> {
        let mut context = Context::default();
        context.add_variable_from_value("params", map(&scope.params));
        context.add_variable_from_value("stages", map(&scope.stages));
        context.add_variable_from_value("run", map(&scope.run));
        match self.program.execute(&context) {
            Ok(Cel::Bool(value)) => Ok(value),
            Ok(other) => Err(NoValue {
                key: None,
                message: format!("`{}` gives a {} and not true or false", self.source, other.type_of()),
            }),
            Err(ExecutionError::NoSuchKey(key)) => Err(NoValue {
                message: format!(
                    "`{}` cannot be evaluated: there is no {key}; the stage has not written it",
                    self.source
                ),
                key: Some(key.to_string()),
            }),
            Err(error) => {
                Err(NoValue { key: None, message: format!("`{}` cannot be evaluated: {error}", self.source) })
            }
        }
    }
}

fn map(values: &BTreeMap<String, Value>) -> Cel {
    let entries: std::collections::HashMap<String, Cel> =
        values.iter().map(|(key, value)| (key.clone(), convert(value))).collect();
    entries.into()
}

fn convert(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(float)) => Cel::Float(float),
            (None, None) => Cel::Null,
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(convert).collect())),
        Value::Object(entries) => {
            let entries: std::collections::HashMap<String, Cel> =
                entries.iter().map(|(key, value)| (key.clone(), convert(value))).collect();
            entries.into()
        }
    }
}

/// The names that an expression reads, by a walk over its tree.
#[derive(Default)]
struct Names {
    stages: BTreeSet<String>,
    params: BTreeSet<String>,
    unknown: Vec<String>,
    whole: bool,
    bound: Vec<String>,
}

impl Names {
    fn walk_node(&mut self, node: &IdedExpr) {
        self.walk(&node.expr);
    }

    fn walk(&mut self, expression: &Expr) {
        match expression {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.root(name),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(root) if !self.bound.contains(root) => self.member(root, &select.field),
                operand => self.walk(operand),
            },
            Expr::Call(call) => {
                // `stages["my-stage"]` is a call of the index operator.
                if call.func_name == cel::common::ast::operators::INDEX
                    && let [object, key] = call.args.as_slice()
                    && let Expr::Ident(root) = &object.expr
                    && let Expr::Literal(LiteralValue::String(name)) = &key.expr
                    && !self.bound.contains(root)
                {
                    self.member(root, name.inner());
                    return;
                }
                if let Some(target) = &call.target {
                    self.walk_node(target);
                }
                call.args.iter().for_each(|argument| self.walk_node(argument));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.walk_node(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(structure) => structure.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Comprehension(comprehension) => {
                self.walk_node(&comprehension.iter_range);
                self.walk_node(&comprehension.accu_init);
                let before = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                self.walk_node(&comprehension.loop_cond);
                self.walk_node(&comprehension.loop_step);
                self.walk_node(&comprehension.result);
                self.bound.truncate(before);
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.walk_node(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.walk_node(&entry.key);
                self.walk_node(&entry.value);
            }
        }
    }

    fn member(&mut self, root: &str, name: &str) {
        match root {
            "stages" => {
                self.stages.insert(name.to_owned());
            }
            "params" => {
                self.params.insert(name.to_owned());
            }
            "run" if ["name", "namespace", "uid", "pipeline", "phase"].contains(&name) => {}
            _ => self.unknown.push(format!("{root}.{name}")),
        }
    }

    fn root(&mut self, name: &str) {
        if self.bound.iter().any(|bound| bound == name) {
            return;
        }
        match name {
            "stages" | "params" => self.whole = true,
            "run" => {}
            _ => self.unknown.push(name.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope() -> Scope {
        Scope {
            params: BTreeMap::from([
                ("production".into(), json!(true)),
                ("n".into(), json!(3)),
                ("tags".into(), json!(["a", "b"])),
            ]),
            stages: BTreeMap::from([(
                "my-train".into(),
                json!({"phase": "Succeeded", "results": {"rows": 150}, "metrics": {"accuracy": 0.97}}),
            )]),
            run: BTreeMap::from([("name".into(), json!("iris-1"))]),
        }
    }

    fn value(source: &str) -> Result<bool, String> {
        Expression::parse(source, "when").unwrap().evaluate(&scope()).map_err(|no_value| no_value.message)
    }

    #[test]
    fn conditions_over_all_that_there_is() {
        for source in [
            "params.production == true",
            "params.n > 2 && params.n >= 2.5",
            "stages['my-train'].metrics.accuracy > 0.9",
            "stages[\"my-train\"].phase == 'Succeeded' && stages['my-train'].results.rows == 150",
            "params.tags.exists(t, t == 'b')",
            "run.name.startsWith('iris')",
            "'a' in params.tags",
        ] {
            assert_eq!(value(source), Ok(true), "{source}");
        }
        assert_eq!(value("params.n > 3"), Ok(false));
    }

    #[test]
    fn what_is_read_is_known_before_it_runs() {
        let expression =
            Expression::parse("stages.a.phase == 'x' || stages['b-c'].results.r > params.n", "when").unwrap();
        assert_eq!(expression.stages, BTreeSet::from(["a".to_owned(), "b-c".to_owned()]));
        assert_eq!(expression.params, BTreeSet::from(["n".to_owned()]));
    }

    #[test]
    fn mistakes_have_a_reason() {
        let reason = |source: &str| Expression::parse(source, "spec.stages[0].when").unwrap_err();
        assert_eq!(reason("params.n >").reason, Reason::InvalidExpression);
        assert_eq!(reason("foo.bar == 1").reason, Reason::UnknownReference);
        assert_eq!(reason("production").reason, Reason::UnknownReference);
        assert_eq!(reason("run.age > 3").reason, Reason::UnknownReference);
        assert_eq!(reason("size(stages) > 1").reason, Reason::InvalidExpression);
        assert!(reason("stages.my-train.phase == 'x'").message.contains("stages[\"my-stage\"]"));
        assert!(value("params.n").unwrap_err().contains("not true or false"));
        assert!(value("stages['my-train'].metrics.f1 > 1.0").unwrap_err().contains("cannot be evaluated"));
    }
}
