import type { ComponentChildren } from "preact";
import { choicesOf, forms, type Schema, type Values } from "../api/fields";
import type { Faults } from "../api/problem";
import type { Parameter } from "../api/types";
import { Input, Select } from "./Fields";

interface Properties {
  fields: readonly Parameter[];
  values: Values;
  onValues(values: Values): void;
  /** Where they are in the request, as a JSON pointer. */
  at: string;
  faults: Faults;
  /** What a field without a default is when nothing is said. */
  otherwise: string;
  /** Also where a field has a default: nothing said means something else here. */
  always?: boolean;
  /** Without descriptions, where they stand close by. */
  brief?: boolean;
}

const pointer = (at: string, name: string) => `${at}/${name.replaceAll(".", "/")}`;

/** One field for each value that the service describes, with its words. */
export function SchemaFields({ fields, values, onValues, at, faults, otherwise, always, brief }: Properties) {
  return (
    <div class="fields">
      {fields.map((field) => {
        const standard = always || field.default === null || field.default === undefined ? otherwise : `Default: ${String(field.default)}`;
        return (
          <SchemaField
            key={field.name}
            field={field}
            standard={standard}
            brief={brief}
            value={values[field.name] ?? ""}
            fault={faults(pointer(at, field.name))}
            onValue={(value) => onValues({ ...values, [field.name]: value })}
          />
        );
      })}
    </div>
  );
}

/** The same folded up; opened by itself where something in it was refused. */
export function MoreFields({ title, open, children, ...rest }: Properties & { title: string; open?: boolean; children?: ComponentChildren }) {
  const refused = open || rest.fields.some((each) => rest.faults(pointer(rest.at, each.name)));
  return (
    <details open={refused}>
      <summary>{title}</summary>
      <div class="stack">
        <SchemaFields {...rest} />
        {children}
      </div>
    </details>
  );
}

interface FieldProperties {
  field: Parameter;
  standard: string;
  brief: boolean | undefined;
  value: string;
  fault: string | undefined;
  onValue(value: string): void;
}

function SchemaField({ field, standard, brief, value, fault, onValue }: FieldProperties) {
  const schema = field.schema as Schema;
  const common = { label: field.name, hint: brief ? undefined : marked(field.description), fault, value, onValue };
  const choices = choicesOf(schema);
  if (choices) return <Select {...common} choices={[{ value: "", label: standard }, ...choices.map((each) => ({ value: each }))]} />;
  const [form] = forms(schema);
  const numeric = form?.type === "number" || form?.type === "integer";
  const example = schema.examples?.at(-1);
  const placeholder = example === undefined || !standard ? standard : String(example);
  return <Input {...common} type={numeric ? "number" : "text"} step={form?.type === "integer" ? 1 : "any"} min={form?.minimum} max={form?.maximum} placeholder={placeholder} />;
}

/** A description, with what stands between backticks as code. */
function marked(text: string): ComponentChildren {
  return text.split("`").map((part, at) => (at % 2 ? <code>{part}</code> : part));
}
