// Rules for errors that the types of scripts/tsconfig.json do not show.

const RULES = [
  "array-callback-return", "eqeqeq", "no-async-promise-executor", "no-compare-neg-zero",
  "no-cond-assign", "no-constant-condition", "no-dupe-else-if", "no-dupe-keys", "no-duplicate-case",
  "no-empty", "no-fallthrough", "no-loss-of-precision",
  "no-prototype-builtins", "no-self-compare", "no-shadow", "no-sparse-arrays",
  "no-template-curly-in-string", "no-unreachable", "no-unreachable-loop", "no-unsafe-finally",
  "no-unsafe-optional-chaining", "no-unused-private-class-members", "no-useless-backreference",
  "no-useless-catch", "no-useless-escape", "no-var", "prefer-const",
  "use-isnan", "valid-typeof",
];

export default [{ rules: Object.fromEntries(RULES.map((name) => [name, "error"])) }];
