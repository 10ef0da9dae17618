/** Fields that the service describes itself: a method's parameters, and the schemas of its OpenAPI document. */
import type { Parameter } from "./types";

export interface Schema {
  type?: string;
  enum?: unknown[];
  const?: unknown;
  anyOf?: Schema[];
  minimum?: number;
  maximum?: number;
  items?: unknown;
  $ref?: string;
  default?: unknown;
  description?: string;
  examples?: unknown[];
}

/** What was typed or chosen, by the field's name; nothing where it was left alone. */
export type Values = Readonly<Record<string, string>>;

/** The fields of an object that hold one value each; `names` of them, or all. */
export function fieldsOf(object: { properties: object }, ...names: string[]): Parameter[] {
  return Object.entries(object.properties as Record<string, Schema>)
    .filter(([name, schema]) => (names.length === 0 || names.includes(name)) && isValue(schema))
    .map(([name, schema]) => ({ name, description: schema.description ?? "", default: schema.default ?? null, schema: schema as Parameter["schema"] }));
}

const isValue = (schema: Schema) => forms(schema).every((each) => each.$ref === undefined && each.type !== "array" && each.type !== "object");

/** The forms that a value may have, without null. */
export function forms(schema: Schema): Schema[] {
  return (schema.anyOf ?? [schema]).filter((each) => each.type !== "null");
}

/** What can be chosen from; null where anything can be typed. */
export function choicesOf(schema: Schema): readonly string[] | null {
  const [form] = forms(schema);
  const values = form?.enum ?? (form?.type === "boolean" ? [true, false] : form?.const !== undefined ? [form.const] : null);
  return values && values.map(String);
}

/** What was said, as JSON; a dot in a name leads into a nested object, and nothing said is undefined. */
export function objectOf(fields: readonly Parameter[], values: Values): Record<string, unknown> | undefined {
  const made: Record<string, unknown> = {};
  for (const { name, schema } of fields) {
    const text = values[name];
    if (!text) continue;
    const way = name.split(".");
    let at = made;
    for (const step of way.slice(0, -1)) at = (at[step] ??= {}) as Record<string, unknown>;
    at[way.at(-1) ?? ""] = valueOf(schema as Schema, text);
  }
  return Object.keys(made).length ? made : undefined;
}

function valueOf(schema: Schema, text: string): unknown {
  const type = forms(schema)[0]?.type;
  if (type === "boolean") return text === "true";
  return type === "number" || type === "integer" ? Number(text) : text;
}
