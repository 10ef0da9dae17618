/** What the form of a job holds, and the request that it comes to. */
import { fieldsOf, objectOf, type Values } from "../../api/fields";
import { Calibration, Domain, Evaluation, HarnessTask, JobCreate, Output, Override, Sparsity } from "../../api/schemas.json";
import type { Method } from "../../api/types";

export interface DomainForm {
  name: string;
  dataset: string;
  evaluation: string;
  calibration: Values;
  more: Values;
}

export interface TaskForm {
  name: string;
  dataset: string;
  more: Values;
}

export interface Form {
  model: string;
  domains: readonly DomainForm[];
  method: string;
  parameters: Values;
  effort: string;
  target: string;
  further: string;
  sparsity: Values;
  /** In their order; `id` only tells them apart on the page. */
  overrides: readonly { id: number; values: Values }[];
  evaluation: Values;
  output: Values;
  more: Values;
  label: string;
  priority: string;
  maxBwt: string;
  tasks: readonly TaskForm[];
}

export const EMPTY_DOMAIN: DomainForm = { name: "", dataset: "", evaluation: "", calibration: {}, more: {} };
export const EMPTY_TASK: TaskForm = { name: "", dataset: "", more: {} };
export const EMPTY: Form = {
  model: "", domains: [EMPTY_DOMAIN], method: "copal", parameters: {}, effort: "", target: "0.5", further: "", sparsity: {}, overrides: [],
  evaluation: {}, output: {}, more: {}, label: "", priority: "0", maxBwt: "", tasks: [],
};

export const EFFORT = JobCreate.properties.effort;
export const CALIBRATION = fieldsOf(Calibration);
export const DOMAIN = fieldsOf(Domain, "weight");
export const SPARSITY = fieldsOf(Sparsity);
export const OVERRIDE = fieldsOf(Override);
export const EVALUATION = fieldsOf(Evaluation);
export const OUTPUT = fieldsOf(Output);
export const TASK = fieldsOf(HarnessTask, "few_shot", "limit");
export const NUMERICS = fieldsOf(JobCreate, "numerics");

const filled = (value: string) => (value === "" ? undefined : value);
const figure = (value: string) => (value === "" ? undefined : Number(value));

/** continues: the job whose model, method and sparsity hold on. */
export function bodyOf(form: Form, continues: string | null, method: Method | undefined): unknown {
  const [name, value] = form.label.split(":");
  const common = {
    domains: form.domains.map(domainOf),
    evaluation: objectOf(EVALUATION, form.evaluation),
    output: objectOf(OUTPUT, form.output),
    priority: figure(form.priority),
    labels: name ? { [name.trim()]: (value ?? "").trim() } : undefined,
    tasks: form.tasks.length ? form.tasks.map(taskOf) : undefined,
    gate: form.maxBwt === "" ? undefined : { max_bwt: Number(form.maxBwt) },
  };
  if (continues) return { ...common, continues };
  const further = furtherOf(form);
  const sparsity = {
    ...objectOf(SPARSITY, form.sparsity),
    target: figure(form.target),
    overrides: form.overrides.length ? form.overrides.map((each) => objectOf(OVERRIDE, each.values) ?? {}) : undefined,
    further: further.length ? further : undefined,
  };
  const solved = { name: form.method, ...objectOf(method?.parameters ?? [], form.parameters) };
  return { ...common, ...objectOf(NUMERICS, form.more), model: form.model, effort: filled(form.effort), method: solved, sparsity };
}

function domainOf({ name, dataset, evaluation, calibration, more }: DomainForm): unknown {
  return { name, dataset, evaluation: filled(evaluation), calibration: objectOf(CALIBRATION, calibration), ...objectOf(DOMAIN, more) };
}

function taskOf({ name, dataset, more }: TaskForm): unknown {
  return { name, dataset: filled(dataset), ...objectOf(TASK, more) };
}

/** Numbers, and patterns n:m as they are; what is neither the service refuses by its place. */
export function furtherOf({ further }: Form): (number | string)[] {
  const parts = further.split(",").map((part) => part.trim()).filter(Boolean);
  return parts.map((part) => (Number.isNaN(Number(part)) ? part : Number(part)));
}
