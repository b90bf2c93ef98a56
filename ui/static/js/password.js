// Rates a new password while it is typed by the variety of its characters. The server rates it again.
const tests = {
  length: value => [...value].length >= 8,
  upper: value => /\p{Lu}/u.test(value),
  lower: value => /\p{Ll}/u.test(value),
  digit: value => /\p{Nd}/u.test(value),
  special: value => /[^\p{L}\p{Nd}]/u.test(value)
}
const words = ['Very weak', 'Very weak', 'Weak', 'Fair', 'Good', 'Strong']

export function passwordMeters (root) {
  for (const field of root.querySelectorAll('input[data-strength]')) {
    const box = document.getElementById(field.dataset.strength)
    box.hidden = false
    const update = () => {
      let score = 0
      for (const item of box.querySelectorAll('[data-test]')) {
        const met = tests[item.dataset.test](field.value)
        item.classList.toggle('met', met)
        score += met ? 1 : 0
      }
      box.querySelector('meter').value = score
      box.querySelector('.strength-text').textContent = field.value === '' ? 'Minimum password criteria' : words[score]
    }
    field.addEventListener('input', update)
    update()
  }
}
