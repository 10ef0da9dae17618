import { useSearchParams } from "wouter-preact";

export interface Filters<Name extends string> {
  values: Record<Name, string>;
  some: boolean;
  change(changes: Partial<Record<Name, string>>): void;
  clear(): void;
}

/** Filters of a list, kept in the address, so that a filtered page can be linked to. `changed` goes to its first page. */
export function useFilters<Name extends string>(names: readonly Name[], changed: () => void): Filters<Name> {
  const [parameters, setParameters] = useSearchParams();
  const values = Object.fromEntries(names.map((name) => [name, parameters.get(name) ?? ""])) as Record<Name, string>;
  return {
    values,
    some: Object.values(values).some(Boolean),
    change: (changes) => {
      changed();
      setParameters((before) => {
        const after = new URLSearchParams(before);
        for (const [name, value] of Object.entries<string | undefined>(changes)) {
          if (value) after.set(name, value);
          else after.delete(name);
        }
        return after;
      }, { replace: true });
    },
    clear: () => {
      changed();
      setParameters({});
    },
  };
}

/** The beginning of a day here, as the API takes it. What is no day goes as it is, for the API to refuse. */
export function dayOf(value: string): string | undefined {
  const day = new Date(`${value}T00:00:00`);
  return Number.isNaN(day.getTime()) ? value || undefined : day.toISOString();
}
