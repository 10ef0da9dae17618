import { useRef } from "preact/hooks";
import type { Faults } from "../../api/problem";
import { SchemaFields } from "../../parts/SchemaFields";
import { OVERRIDE, type Form } from "./form";

type Override = Form["overrides"][number];
const AT = "/sparsity/overrides";

interface Properties {
  overrides: readonly Override[];
  faults: Faults;
  change(overrides: readonly Override[]): void;
  /** Faults, which are known by their place, are no longer where they belong. */
  moved(): void;
}

/** Exceptions from the job's target, pattern and method. Their order counts, so that they can be moved. */
export function Overrides({ overrides, faults, change, moved }: Properties) {
  const list = useRef<HTMLOListElement>(null);
  const last = overrides.length - 1;
  const focus = (at: number, button: string) =>
    requestAnimationFrame(() => {
      const row = list.current?.children[at];
      (row?.querySelector<HTMLElement>(`button.${button}:not(:disabled)`) ?? row?.querySelector<HTMLElement>("button:not(:disabled)"))?.focus();
    });
  const move = (from: number, to: number, button: string) => {
    const after = [...overrides];
    after.splice(to, 0, ...after.splice(from, 1));
    change(after);
    moved();
    focus(to, button);
  };
  const drop = (at: number) => {
    change(overrides.filter((_, each) => each !== at));
    moved();
    focus(Math.min(at, last - 1), "drop");
  };
  const add = () => {
    change([...overrides, { id: 1 + Math.max(0, ...overrides.map((each) => each.id)), values: {} }]);
    requestAnimationFrame(() => list.current?.lastElementChild?.querySelector<HTMLElement>("input")?.focus());
  };
  return (
    <section class="stack" aria-label="Overrides">
      <div>
        <h3>Overrides</h3>
        <p class="hint">Exceptions for matrices by their names, in order: later ones win, field by field. The others make up for them.</p>
      </div>
      {overrides.length > 0 && (
        <ol class="plain stack" ref={list}>
          {overrides.map((override, at) => (
            <li key={override.id}>
              <fieldset class="domain stack" aria-label={`Override ${at + 1}`}>
                <div class="row">
                  <span class="legend">Override {at + 1}</span>
                  <button type="button" class="link up" disabled={at === 0} onClick={() => move(at, at - 1, "up")}>
                    Up<span class="unseen">: override {at + 1}</span>
                  </button>
                  <button type="button" class="link down" disabled={at === last} onClick={() => move(at, at + 1, "down")}>
                    Down<span class="unseen">: override {at + 1}</span>
                  </button>
                  <button type="button" class="link drop" onClick={() => drop(at)}>
                    Remove<span class="unseen"> override {at + 1}</span>
                  </button>
                </div>
                {faults(`${AT}/${at}`) && <p class="fault">{faults(`${AT}/${at}`)}</p>}
                <SchemaFields
                  fields={OVERRIDE}
                  values={override.values}
                  onValues={(values) => change(overrides.map((each) => (each === override ? { ...each, values } : each)))}
                  at={`${AT}/${at}`}
                  faults={faults}
                  otherwise="as the job"
                  brief={at > 0}
                />
              </fieldset>
            </li>
          ))}
        </ol>
      )}
      <div>
        <button type="button" onClick={add}>Add an override</button>
      </div>
    </section>
  );
}
