import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLocation, useSearchParams } from "wouter-preact";
import { api, once, take } from "../../api/client";
import { choicesOf, type Values } from "../../api/fields";
import { faultsOf } from "../../api/problem";
import type { Plan } from "../../api/types";
import { Input, Select } from "../../parts/Fields";
import { Empty, ErrorNotice, Loading, Notice } from "../../parts/Notices";
import { MoreFields, SchemaFields } from "../../parts/SchemaFields";
import { Head } from "../../parts/Shell";
import { useNames } from "../../state/names";
import { useTitle } from "../../state/title";
import { DomainFields } from "./DomainFields";
import { bodyOf, EFFORT, EMPTY, EMPTY_DOMAIN, EVALUATION, furtherOf, NUMERICS, OUTPUT, SPARSITY, type Form } from "./form";
import { Overrides } from "./Overrides";
import { PlanResult } from "./PlanResult";
import { Tasks } from "./Tasks";

const EVERYDAY = SPARSITY.filter(({ name }) => name === "pattern" || name === "allocation");
/** The target has a field of its own. */
const SELDOM = SPARSITY.filter((field) => field.name !== "target" && !EVERYDAY.includes(field));

/** Fields of numbers. What a browser cannot read as one has the value "", as an empty field has. */
const numbers = (form: HTMLFormElement | null) => [...(form?.querySelectorAll<HTMLInputElement>('input[type="number"]') ?? [])];

/** A job before it is one: planned, then submitted. */
export function NewPage() {
  useTitle("New job");
  const names = useNames();
  const [parameters] = useSearchParams();
  const continues = parameters.get("continues");
  const [, go] = useLocation();
  const [form, setForm] = useState<Form>(EMPTY);
  const sheet = useRef<HTMLFormElement>(null);
  const current = useRef(form);
  current.current = form;
  const [plan, setPlan] = useState<Plan>();
  const [error, setError] = useState<Error>();
  const [busy, setBusy] = useState<"plan" | "submit" | null>(null);
  const header = useMemo(once, [form]);
  const change = (changes: Partial<Form>) => {
    setForm((before) => ({ ...before, ...changes }));
    setPlan(undefined);
  };
  const set = <Name extends keyof Form>(name: Name, value: Form[Name]) => change({ [name]: value });
  useEffect(() => {
    const ready = names.models.find((model) => model.state === "ready");
    if (!form.model && ready) setForm((before) => ({ ...before, model: ready.id }));
  }, [names.loaded]);

  if (!names.loaded) return names.error ? <ErrorNotice error={names.error} again={names.again} /> : <Loading />;
  if (!continues && (names.models.length === 0 || names.datasets.length === 0)) {
    return (
      <Empty title="A job needs a model and a dataset">Register or upload them first: secateur models add, secateur datasets add.</Empty>
    );
  }
  const method = names.catalogue.find((each) => each.name === form.method);
  const faults = faultsOf(error);
  const sparsity = { values: form.sparsity, onValues: (values: Values) => set("sparsity", values), at: "/sparsity", faults, otherwise: "Default" };
  const inherited = { otherwise: continues ? "as the parent" : "none", always: continues !== null };

  const send = async (kind: "plan" | "submit") => {
    const unread = numbers(sheet.current).find((input) => input.validity.badInput);
    if (unread) {
      setError(new Error(`${unread.labels?.[0]?.textContent}: what stands there is no number.`));
      unread.closest("details")?.setAttribute("open", "");
      unread.focus();
      return;
    }
    setBusy(kind);
    setError(undefined);
    try {
      const body = bodyOf(form, continues, method) as never;
      if (kind === "plan") {
        const made = await take(api.POST("/v1/plans", { params: { query: { wait: 30 }, header: once() }, body }));
        if (current.current === form) setPlan(made);
      } else go(`/jobs/${(await take(api.POST("/v1/jobs", { params: { header }, body }))).id}`);
    } catch (problem) {
      setError(problem as Error);
      requestAnimationFrame(() => document.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus());
    } finally {
      setBusy(null);
    }
  };

  return (
    <form
      class="stack"
      noValidate
      ref={sheet}
      onSubmit={(event) => {
        event.preventDefault();
        void send("submit");
      }}
    >
      <Head title={continues ? "Continue a job" : "New job"} about={continues && <code>{continues}</code>} />
      <ErrorNotice error={error} />
      {!names.whole && <Notice kind="warn">Only the newest 1,000 models and datasets can be chosen here; the API and the command line take all.</Notice>}
      <section class="card stack">
        <h2>Model and domains</h2>
        {!continues && (
          <div class="fields">
            <Select label="Model" value={form.model} choices={names.modelChoices} onValue={(value) => set("model", value)} fault={faults("/model")} />
          </div>
        )}
        {form.domains.map((domain, index) => (
          <DomainFields
            key={index}
            domain={domain}
            index={index}
            names={names}
            faults={faults}
            change={(after) => set("domains", form.domains.map((each, at) => (at === index ? after : each)))}
            drop={form.domains.length > 1 ? () => { set("domains", form.domains.filter((_, at) => at !== index)); setError(undefined); } : undefined}
          />
        ))}
        <div>
          <button type="button" onClick={() => set("domains", [...form.domains, EMPTY_DOMAIN])}>
            Add a domain
          </button>
        </div>
      </section>
      {!continues && (
        <section class="card stack">
          <h2>Method</h2>
          <div class="fields">
            <Select label="Method" value={form.method} choices={names.methods.map((value) => ({ value }))} onValue={(value) => change({ method: value, parameters: {} })} fault={faults("/method/name") ?? faults("/method")} />
            <Select label="Effort" value={form.effort} choices={[{ value: "", label: "Default" }, ...(choicesOf(EFFORT) ?? []).map((value) => ({ value }))]} onValue={(value) => set("effort", value)} fault={faults("/effort")} hint="How much time the job takes for a better result." />
          </div>
          {method && <p class="quiet">{method.description}</p>}
          {method && (
            <MoreFields title={`Parameters of ${method.name}`} fields={method.parameters} values={form.parameters} onValues={(values) => set("parameters", values)} at="/method" faults={faults} otherwise="by the method" />
          )}
        </section>
      )}
      {!continues && (
        <section class="card stack">
          <h2>Sparsity</h2>
          <div class="fields">
            <Input label="Sparsity target" type="number" min={0} max={1} step="any" value={form.target} onValue={(value) => set("target", value)} fault={faults("/sparsity/target")} hint="Share of the weights that become zero; left empty where the pattern is n:m, as 2:4." />
            <Input label="Further targets" placeholder="0.6, 0.7, 2:4" value={form.further} onValue={(value) => set("further", value)} fault={faults("/sparsity/further") ?? furtherOf(form).map((_, at) => faults(`/sparsity/further/${at}`)).find(Boolean)} hint="More models from the same calibration, with commas between." />
          </div>
          <SchemaFields fields={EVERYDAY} {...sparsity} />
          <MoreFields title="More of sparsity" fields={SELDOM} {...sparsity} />
          <Overrides overrides={form.overrides} faults={faults} change={(overrides) => set("overrides", overrides)} moved={() => setError(undefined)} />
        </section>
      )}
      <section class="card stack">
        <h2>Run</h2>
        <div class="fields">
          <Input label="Label" placeholder="team:search" value={form.label} onValue={(value) => set("label", value)} fault={faults("/labels")} />
          <Input label="Priority" type="number" step={1} value={form.priority} onValue={(value) => set("priority", value)} fault={faults("/priority")} hint="Higher goes before other jobs of this project." />
          <Input label="Gate: highest BWT" type="number" step="any" value={form.maxBwt} onValue={(value) => set("maxBwt", value)} fault={faults("/gate/max_bwt")} hint="A job that forgets more than this fails." />
        </div>
        <MoreFields title="Evaluation" fields={EVALUATION} values={form.evaluation} onValues={(values) => set("evaluation", values)} at="/evaluation" faults={faults} {...inherited} />
        <MoreFields title="Output" fields={OUTPUT} values={form.output} onValues={(values) => set("output", values)} at="/output" faults={faults} {...inherited} />
        <Tasks
          tasks={form.tasks}
          names={names}
          faults={faults}
          change={(tasks) => set("tasks", tasks)}
          moved={() => setError(undefined)}
          about={continues ? "None: as the parent." : ""}
        />
        {!continues && <MoreFields title="Numerics" fields={NUMERICS} values={form.more} onValues={(values) => set("more", values)} at="" faults={faults} otherwise="Default" />}
      </section>
      {plan && <PlanResult plan={plan} />}
      <div class="row">
        <button type="button" disabled={busy !== null} onClick={() => send("plan")}>
          {busy === "plan" ? "Planning…" : "Plan"}
        </button>
        <button type="submit" class="primary" disabled={busy !== null}>
          {busy === "submit" ? "Submitting…" : "Submit"}
        </button>
      </div>
    </form>
  );
}
