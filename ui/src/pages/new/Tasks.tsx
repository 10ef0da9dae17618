import { useRef } from "preact/hooks";
import type { Faults } from "../../api/problem";
import { Input, Select } from "../../parts/Fields";
import { SchemaFields } from "../../parts/SchemaFields";
import type { Names } from "../../state/names";
import { EMPTY_TASK, TASK, type TaskForm } from "./form";

interface Properties {
  tasks: readonly TaskForm[];
  names: Names;
  faults: Faults;
  change(tasks: readonly TaskForm[]): void;
  /** Faults, which are known by their place, are no longer where they belong. */
  moved(): void;
  /** What stands where nothing is asked. */
  about: string;
}

/** The harness's own tasks, and questions over an uploaded text, that both models do at the end. */
export function Tasks({ tasks, names, faults, change, moved, about }: Properties) {
  const list = useRef<HTMLOListElement>(null);
  const adding = useRef<HTMLButtonElement>(null);
  const texts = names.datasets.map((each) => ({ value: each.id, label: each.name }));
  const put = (at: number, changes: Partial<TaskForm>) => change(tasks.map((each, index) => (index === at ? { ...each, ...changes } : each)));
  const add = () => {
    change([...tasks, EMPTY_TASK]);
    requestAnimationFrame(() => list.current?.lastElementChild?.querySelector<HTMLElement>("input")?.focus());
  };
  const drop = (at: number) => {
    change(tasks.filter((_, index) => index !== at));
    moved();
    adding.current?.focus();
  };
  return (
    <section class="stack" aria-label="Tasks">
      <div>
        <h3>Tasks</h3>
        <p class="hint">Questions of lm-evaluation-harness for the dense model and the result, once pruning is done. {about}</p>
      </div>
      {tasks.length > 0 && (
        <ol class="plain stack" ref={list}>
          {tasks.map((task, at) => (
            <li key={at}>
              <fieldset class="domain stack" aria-label={`Task ${at + 1}`}>
                <div class="row">
                  <span class="legend">Task {at + 1}</span>
                  <button type="button" class="link" onClick={() => drop(at)}>
                    Remove<span class="unseen"> task {at + 1}</span>
                  </button>
                </div>
                <div class="fields">
                  <Input label="Name" placeholder="arc_easy" value={task.name} onValue={(name) => put(at, { name })} fault={faults(`/tasks/${at}/name`)} />
                  <Select
                    label="Questions"
                    value={task.dataset}
                    choices={[{ value: "", label: "The harness's own" }, ...texts]}
                    onValue={(dataset) => put(at, { dataset })}
                    fault={faults(`/tasks/${at}/dataset`)}
                  />
                </div>
                <SchemaFields fields={TASK} values={task.more} onValues={(more) => put(at, { more })} at={`/tasks/${at}`} faults={faults} otherwise="Default" brief={at > 0} />
              </fieldset>
            </li>
          ))}
        </ol>
      )}
      <div>
        <button type="button" ref={adding} onClick={add}>Add a task</button>
      </div>
    </section>
  );
}
