//! The SQL that is read: sqlparser's generic dialect, but `->`, `->>` and `||` bind as tightly as in PostgreSQL.

use std::any::TypeId;

use sqlparser::dialect::{Dialect, GenericDialect};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// To the parser this is the generic dialect, whose `->` binds looser than `=`, so that `x ->> 'k' = 'v'` would read the key `'k' = 'v'`.
#[derive(Debug)]
pub(super) struct Sql;

/// PostgreSQL's "any other operator": looser than `+` and `-`, tighter than `BETWEEN`, `IN`, `LIKE` and comparisons.
const OTHER: u8 = 25;

macro_rules! as_generic {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { GenericDialect.$name() })* };
}

impl Dialect for Sql {
    fn dialect(&self) -> TypeId {
        GenericDialect.dialect()
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::Arrow
            | Token::LongArrow
            | Token::HashArrow
            | Token::HashLongArrow
            | Token::HashMinus
            | Token::AtArrow
            | Token::ArrowAt
            | Token::AtQuestion
            | Token::AtAt
            | Token::Question
            | Token::QuestionAnd
            | Token::QuestionPipe
            | Token::StringConcat
            | Token::CustomBinaryOperator(_) => Some(Ok(OTHER)),
            _ => None,
        }
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        GenericDialect.is_identifier_part(ch)
    }

    as_generic! {
        supports_unicode_string_literal supports_partition_by_after_order_by supports_array_join_syntax
        supports_group_by_expr supports_group_by_with_modifier supports_left_associative_joins_without_parens
        supports_connect_by supports_match_recognize supports_pipe_operator supports_start_transaction_modifier
        supports_window_function_null_treatment_arg supports_dictionary_syntax
        supports_window_clause_named_window_reference supports_parenthesized_set_variables
        supports_select_wildcard_except support_map_literal_syntax allow_extract_custom allow_extract_single_quotes
        supports_extract_comma_syntax supports_create_view_comment_syntax supports_parens_around_table_factor
        supports_values_as_table_factor supports_create_index_with_clause supports_explain_with_utility_options
        supports_limit_comma supports_update_order_by supports_from_first_select supports_projection_trailing_commas
        supports_asc_desc_in_column_definition supports_try_convert supports_bitwise_shift_operators supports_comment_on
        supports_load_extension supports_named_fn_args_with_assignment_operator supports_struct_literal
        supports_empty_projections supports_nested_comments supports_multiline_comment_hints supports_user_host_grantee
        supports_string_escape_constant supports_array_typedef_with_brackets supports_match_against supports_set_names
        supports_comma_separated_set_assignments supports_filter_during_aggregation supports_select_wildcard_exclude
        supports_data_type_signed_suffix supports_interval_options supports_quote_delimited_string
        supports_select_wildcard_replace supports_select_wildcard_ilike supports_select_wildcard_rename
        supports_optimize_table supports_install supports_detach supports_prewhere supports_with_fill supports_limit_by
        supports_interpolate supports_settings supports_select_format supports_comment_optimizer_hint
        supports_constraint_keyword_without_name supports_key_column_option supports_comma_separated_trim
        supports_cte_without_as supports_select_item_multi_column_alias supports_xml_expressions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An expression with parentheses around everything that the parser holds together.
    fn read(text: &str) -> String {
        use sqlparser::ast::{Expr, VisitMut, VisitorMut};
        struct Close;
        impl VisitorMut for Close {
            type Break = ();
            fn post_visit_expr(&mut self, expr: &mut Expr) -> std::ops::ControlFlow<()> {
                if !matches!(expr, Expr::Identifier(_) | Expr::Value(_) | Expr::Nested(_) | Expr::Cast { .. }) {
                    *expr = Expr::Nested(Box::new(expr.clone()));
                }
                std::ops::ControlFlow::Continue(())
            }
        }
        let mut expr = Parser::new(&Sql).try_with_sql(text).and_then(|mut parser| parser.parse_expr()).unwrap();
        let _ = expr.visit(&mut Close);
        expr.to_string()
    }

    #[test]
    fn json_operators_bind_as_in_postgresql() {
        for (text, meant) in [
            ("data->'a'->>'b' = 'c'", "(((data -> 'a') ->> 'b') = 'c')"),
            ("'c' = data->'a'->>'b'", "('c' = ((data -> 'a') ->> 'b'))"),
            ("CAST(x ->> 'n' AS BIGINT) > 5", "(CAST((x ->> 'n') AS BIGINT) > 5)"),
            ("(x->>'a') || 'b'", "(((x ->> 'a')) || 'b')"),
            ("x->>'a' || 'b'", "((x ->> 'a') || 'b')"),
            ("x ->> 'a' IS NULL", "((x ->> 'a') IS NULL)"),
            ("x ->> 'a' IS NOT DISTINCT FROM y", "((x ->> 'a') IS NOT DISTINCT FROM y)"),
            ("x->>'a' BETWEEN y->>'b' AND y->>'c'", "((x ->> 'a') BETWEEN (y ->> 'b') AND (y ->> 'c'))"),
            ("x->>'a' IN ('b', 'c')", "((x ->> 'a') IN ('b', 'c'))"),
            ("x->>'a' LIKE y->>'b'", "((x ->> 'a') LIKE (y ->> 'b'))"),
            ("NOT x->>'a' = 'b' AND x->>'c' <> 'd'", "((NOT ((x ->> 'a') = 'b')) AND ((x ->> 'c') <> 'd'))"),
            ("x -> 0 ->> 'a' = 'b'", "(((x -> 0) ->> 'a') = 'b')"),
            ("x -> -1 ->> 'a'", "((x -> (-1)) ->> 'a')"),
            ("x -> n + 1", "(x -> (n + 1))"),
            ("x::JSON ->> 'a' = 'b'", "((x::JSON ->> 'a') = 'b')"),
            ("a || b = c || d", "((a || b) = (c || d))"),
            ("x @> y = z", "((x @> y) = z)"),
        ] {
            assert_eq!(read(text), meant, "{text}");
        }
    }

    #[test]
    fn everything_else_is_the_generic_dialect() {
        let (ours, generic): (&dyn Dialect, &dyn Dialect) = (&Sql, &GenericDialect);
        assert!(ours.is::<GenericDialect>());
        for text in
            ["a + b * c", "a = b AND NOT c OR d", "a[1].b", "a::INT = 1", "x LIKE 'a' ESCAPE 'b'", "- a ^ b & c", "a IS NULL"]
        {
            let read = |dialect| Parser::new(dialect).try_with_sql(text).and_then(|mut parser| parser.parse_expr());
            assert_eq!(read(ours), read(generic), "{text}");
        }
    }
}
