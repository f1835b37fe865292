//! What a condition may cost: anybody who may create a run may write one, and the operator evaluates it for all.
//!
//! CEL has no loops, but its macros nest: seven `all` over ten numbers are ten million steps. So each list that a macro goes
//! through is paid for beforehand, by its size times what one turn may take; and how deep an expression may be is bounded by its
//! operators, since a parser goes as deep as they do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, ExecutionError, Value as Cel};
use serde_json::Value;

use super::Scope;

/// Most operators of a condition.
pub(super) const OPERATORS: usize = 250;
/// Most steps of one evaluation: about a tenth of a second, and some megabytes.
pub(super) const STEPS: u64 = 1_000_000;
/// So many bytes are handled in one step.
const BYTES: usize = 16;
/// The function that pays for a list. No condition can name it.
const PAY: &str = "@pay";

/// How many operators a text has: each sign that can nest, and the word `in`. Those of quoted texts count too, since what is quoted
/// only a parser knows.
pub(super) fn operators(source: &str) -> usize {
    let doubled = |(before, sign): (char, char)| "=&|".contains(sign) && "=&|<>!".contains(before);
    let pairs = std::iter::once(' ').chain(source.chars()).zip(source.chars());
    let signs = pairs.filter(|pair| "+-*/%!<>=&|?.([{".contains(pair.1) && !doubled(*pair)).count();
    signs + source.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == "in").count()
}

/// An expression that pays for each list before it goes through it, and the function that it pays with in `context`.
pub(super) fn metered(expression: &IdedExpr, scope: &Scope, context: &mut Context<'_, '_>) -> (IdedExpr, Meter) {
    let meter = Meter::default();
    let mut metered = expression.clone();
    let whole = Weigher { scope, bound: BTreeSet::new() }.weigh(&mut metered);
    meter.pay(whole);
    let paying = meter.clone();
    let pay = move |list: Cel, weight: i64| {
        let weight = weight.unsigned_abs();
        match paying.pay(units(&list).saturating_mul(weight)) {
            true => Ok(list),
            false => Err(ExecutionError::function_error(PAY, "too many steps")),
        }
    };
    // A name that is taken already is the only error.
    let _ = context.add_function(PAY, pay);
    (metered, meter)
}

/// How many steps were paid for.
#[derive(Clone, Default)]
pub(super) struct Meter(Arc<AtomicU64>);

impl Meter {
    fn pay(&self, steps: u64) -> bool {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.saturating_add(steps), Ordering::Relaxed);
        !self.is_over()
    }

    /// Whether it was more than there may be. Macros pass over errors of single elements, so the result alone does not say it.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) > STEPS
    }
}

struct Weigher<'a> {
    scope: &'a Scope,
    /// Names that macros bind.
    bound: BTreeSet<String>,
}

impl Weigher<'_> {
    /// The steps of one evaluation, where each list of a macro is gone through not once: those it pays for when its size is known.
    fn weigh(&mut self, node: &mut IdedExpr) -> u64 {
        if let Some((root, fields)) = super::path(&node.expr)
            && !self.bound.contains(root)
        {
            return 1 + self.size(root, &fields);
        }
        let inner = match &mut node.expr {
            Expr::Unspecified | Expr::Ident(_) => 0,
            Expr::Literal(LiteralValue::String(text)) => steps(text.inner().len()),
            Expr::Literal(LiteralValue::Bytes(bytes)) => steps(bytes.inner().len()),
            Expr::Literal(_) => 0,
            Expr::Select(select) => self.weigh(&mut select.operand),
            Expr::Call(call) => {
                let target = call.target.as_mut().map_or(0, |target| self.weigh(target));
                target + self.all(call.args.iter_mut())
            }
            Expr::List(list) => self.all(list.elements.iter_mut()),
            Expr::Map(map) => map.entries.iter_mut().map(|entry| self.entry(&mut entry.expr)).sum(),
            Expr::Struct(structure) => structure.entries.iter_mut().map(|entry| self.entry(&mut entry.expr)).sum(),
            Expr::Comprehension(comprehension) => {
                let outside = self.weigh(&mut comprehension.iter_range) + self.weigh(&mut comprehension.accu_init);
                let names = [&comprehension.iter_var, &comprehension.accu_var].into_iter().cloned();
                let fresh: Vec<String> = names
                    .chain(comprehension.iter_var2.clone())
                    .filter(|name| self.bound.insert(name.clone()))
                    .collect();
                let turn = self.weigh(&mut comprehension.loop_cond)
                    + self.weigh(&mut comprehension.loop_step)
                    + self.weigh(&mut comprehension.result);
                for name in fresh {
                    self.bound.remove(&name);
                }
                let list = std::mem::take(&mut comprehension.iter_range);
                comprehension.iter_range = paid(list, turn);
                outside + turn
            }
        };
        1 + inner
    }

    fn all<'b>(&mut self, nodes: impl Iterator<Item = &'b mut IdedExpr>) -> u64 {
        nodes.map(|node| self.weigh(node)).sum()
    }

    fn entry(&mut self, entry: &mut EntryExpr) -> u64 {
        match entry {
            EntryExpr::StructField(field) => self.weigh(&mut field.value),
            EntryExpr::MapEntry(entry) => self.weigh(&mut entry.key) + self.weigh(&mut entry.value),
        }
    }

    /// The steps to handle a value that the condition reads.
    fn size(&self, root: &str, fields: &[&str]) -> u64 {
        let values = match root {
            "params" => &self.scope.params,
            "stages" => &self.scope.stages,
            _ => &self.scope.run,
        };
        let Some((first, rest)) = fields.split_first() else { return 0 };
        let Some(mut value) = values.get(*first) else { return 0 };
        for field in rest {
            match value.get(field) {
                Some(inner) => value = inner,
                None => break,
            }
        }
        match value {
            Value::String(text) => steps(text.len()),
            Value::Array(_) | Value::Object(_) => steps(value.to_string().len() * BYTES / 2),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }
}

fn paid(list: IdedExpr, weight: u64) -> IdedExpr {
    let weight = i64::try_from(weight).unwrap_or(i64::MAX);
    let weight = IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(weight.into())) };
    let call = CallExpr { func_name: PAY.to_owned(), target: None, args: vec![list, weight] };
    IdedExpr { id: 0, expr: Expr::Call(call) }
}

/// The steps to handle a value.
fn units(value: &Cel) -> u64 {
    match value {
        Cel::String(text) => 1 + steps(text.len()),
        Cel::Bytes(bytes) => 1 + steps(bytes.len()),
        Cel::List(items) => 1 + items.iter().map(units).sum::<u64>(),
        Cel::Map(map) => 1 + map.map.values().map(|value| 1 + units(value)).sum::<u64>(),
        _ => 1,
    }
}

fn steps(bytes: usize) -> u64 {
    (bytes / BYTES) as u64
}
